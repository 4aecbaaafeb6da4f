//! Decides whether the API server is reached through a proxy, as kubectl does. Pure.
//!
//! A `proxy-url` of the kubeconfig always counts. Without one the environment does, by the rules of Go's
//! `http.ProxyFromEnvironment`: `HTTPS_PROXY` or `HTTP_PROXY` by the server's scheme, unless `NO_PROXY`
//! names the server or it is this machine. `ALL_PROXY` is not looked at, because kubectl does not: a
//! cluster that it reaches directly must not be lost to us by it. kube's own reading is not used: it
//! holds `NO_PROXY` against the proxy in place of the server, and refuses lists that Go takes.

use std::net::IpAddr;

use http::Uri;

/// What the environment says of proxies: each as written, unset ones empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `HTTPS_PROXY`, else `https_proxy`.
    pub https: String,
    /// `HTTP_PROXY`, else `http_proxy`.
    pub http: String,
    /// `NO_PROXY`, else `no_proxy`.
    pub no: String,
}

/// A proxy, by how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proxy {
    /// `CONNECT`, in the clear.
    Http(Uri),
    /// `CONNECT`, over TLS.
    Https(Uri),
    /// SOCKS5; names are resolved there.
    Socks(Uri),
}

/// The proxy on the way to `server`; an error names one that cannot be used.
pub(super) fn choose(
    server: &Uri,
    of_kubeconfig: Option<&str>,
    environment: &Proxies,
) -> Result<Option<Proxy>, String> {
    if let Some(url) = of_kubeconfig.filter(|url| !url.is_empty()) {
        return proxy(url).map(Some);
    }
    let https = server.scheme_str() == Some("https");
    let url = if https { &environment.https } else { &environment.http };
    if url.is_empty() || is_direct(server, &environment.no) {
        return Ok(None);
    }
    match proxy(url) {
        // `proxy.example:3128`, as Go takes it.
        Err(_) if !url.contains("://") => proxy(&format!("http://{url}")).map(Some),
        proxy => proxy.map(Some),
    }
}

fn proxy(url: &str) -> Result<Proxy, String> {
    let uri: Uri = url.parse().map_err(|error| format!("the proxy's URL: {error}"))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err("the proxy's URL names no host".to_owned());
    }
    match uri.scheme_str() {
        Some("http") => Ok(Proxy::Http(uri)),
        Some("https") => Ok(Proxy::Https(uri)),
        Some("socks5" | "socks5h") => Ok(Proxy::Socks(uri)),
        scheme => Err(format!(
            "a proxy of scheme `{}` cannot be used, only http, https and socks5",
            scheme.unwrap_or_default()
        )),
    }
}

/// User and password of a proxy's URL, unescaped.
pub(super) fn credentials(proxy: &Uri) -> Option<(String, String)> {
    let (user, _) = proxy.authority()?.as_str().rsplit_once('@')?;
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    Some((unescaped(user), unescaped(password)))
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.filter(|_| first == b'%').and_then(|two| {
            let two = std::str::from_utf8(two).ok()?;
            u8::from_str_radix(two, 16).ok()
        });
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether the environment's proxy does not count for this server.
fn is_direct(server: &Uri, no_proxy: &str) -> bool {
    let host = server.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    let https = server.scheme_str() == Some("https");
    let port = server.port_u16().unwrap_or(if https { 443 } else { 80 });
    let entries = no_proxy.split(',').map(|entry| entry.trim().to_ascii_lowercase());
    entries.filter(|entry| !entry.is_empty()).any(|entry| names(&entry, host, address, port))
}

/// Whether an entry of `NO_PROXY` names a host.
fn names(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((network, bits)) = entry.split_once('/') {
        let (Ok(network), Ok(bits)) = (network.parse(), bits.parse()) else { return false };
        return address.is_some_and(|address| is_in(address, network, bits));
    }
    let bracketed = entry.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, wanted) = match bracketed {
        Some((name, rest)) => (name, rest.strip_prefix(':')),
        None if entry.parse::<IpAddr>().is_ok() => (entry, None),
        None => entry.split_once(':').map_or((entry, None), |(name, port)| (name, Some(port))),
    };
    if wanted.is_some_and(|wanted| wanted.parse() != Ok(port)) {
        return false;
    }
    if let Ok(named) = name.parse::<IpAddr>() {
        return address == Some(named);
    }
    match name.strip_prefix('*').unwrap_or(name) {
        below if below.starts_with('.') => host.ends_with(below),
        name => host == name || host.strip_suffix(name).is_some_and(|left| left.ends_with('.')),
    }
}

fn is_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            (u128::from(a.to_bits()), u128::from(n.to_bits()), 32_u32)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    let Some(free) = width.checked_sub(bits) else { return false };
    address.checked_shr(free).unwrap_or(0) == network.checked_shr(free).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    /// What is chosen on the way to a server, as it was written.
    fn chosen(server: &str, kubeconfig: &str, [https, http, no]: [&str; 3]) -> String {
        let environment = Proxies { https: https.into(), http: http.into(), no: no.into() };
        match choose(&uri(server), Some(kubeconfig), &environment) {
            Ok(None) => "direct".to_owned(),
            Ok(Some(proxy)) => format!("{proxy:?}"),
            Err(why) => why,
        }
    }

    #[test]
    fn the_kubeconfig_comes_before_the_environment() {
        let server = "https://api.example:6443";
        for (kubeconfig, environment, expected) in [
            ("", ["", "", ""], "direct"),
            ("", ["http://p:1", "", ""], "Http(http://p:1/)"),
            ("", ["p:1", "", ""], "Http(http://p:1/)"),
            ("", ["https://p:1", "", ""], "Https(https://p:1/)"),
            ("", ["socks5h://p:1", "", ""], "Socks(socks5h://p:1/)"),
            ("", ["", "http://p:1", ""], "direct"),
            ("", ["http://p:1", "", "api.example"], "direct"),
            ("socks5://q:2", ["http://p:1", "", "*"], "Socks(socks5://q:2/)"),
            (
                "ftp://q",
                ["", "", ""],
                "a proxy of scheme `ftp` cannot be used, only http, https \
                                       and socks5",
            ),
        ] {
            assert_eq!(chosen(server, kubeconfig, environment), expected, "{kubeconfig:?}");
        }
        assert_eq!(chosen("http://api.example", "", ["", "http://p:1", ""]), "Http(http://p:1/)");
        for here in ["https://127.0.0.1:16443", "https://localhost", "https://[::1]:6443"] {
            assert_eq!(chosen(here, "", ["http://p:1", "", ""]), "direct", "{here}");
            assert_eq!(chosen(here, "http://p:1", ["", "", ""]), "Http(http://p:1/)", "{here}");
        }
    }

    /// After golang.org/x/net/http/httpproxy, `TestUseProxy`.
    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        let list = "foobar.com, .barbaz.net,, *.star.org, 192.168.1.1, 192.168.1.2:81, \
                    10.0.0.0/30, 2001:db8::52:0:1, [2001:db8::52:0:2]:443, 2002:db8:a::45/64, \
                    nonsense/99, port.com:8080,";
        for (host, direct) in [
            ("barbaz.net", false),
            ("www.barbaz.net", true),
            ("foobar.com", true),
            ("FOOBAR.com.", true),
            ("www.foobar.com", true),
            ("foofoobar.com", false),
            ("star.org", false),
            ("a.b.star.org", true),
            ("192.168.1.1", true),
            ("192.168.1.2:81", true),
            ("192.168.1.2:443", false),
            ("192.168.1.3", false),
            ("10.0.0.2", true),
            ("10.0.0.4", false),
            ("[2001:db8::52:0:1]", true),
            ("[2001:db8::52:0:2]", true),
            ("[2001:db8::52:0:2]:123", false),
            ("[2002:db8:a::123]", true),
            ("[fe80::1]", false),
            ("port.com:8080", true),
            ("port.com", false),
        ] {
            assert_eq!(is_direct(&uri(&format!("https://{host}")), list), direct, "{host}");
        }
        assert!(is_direct(&uri("https://any.where"), "a,*"));
    }

    #[test]
    fn a_proxys_password_may_have_any_character() {
        let found = |text: &str| credentials(&uri(text));
        let both = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(found("http://me:p%40%3a%25@p:1"), both("me", "p@:%"));
        assert_eq!(found("http://me@p:1"), both("me", ""));
        assert_eq!(found("http://p:1"), None);
        assert_eq!(unescaped("%zz%4"), "%zz%4");
    }
}
