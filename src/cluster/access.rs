//! Owns the way from kubeconfig files to a client, each time anew.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use jiff::Timestamp;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{AuthInfo, Cluster as Server, Context, ExecAuthCluster, Kubeconfig};
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tower::{BoxError, Service, ServiceBuilder};

use super::proxy::{self, Proxies, Proxy};
use super::{ClusterError, plugin};

/// How long the API server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next question: only so long that questions which follow each
/// other share it. One that is older may be dead (this machine slept, the network is another), and
/// that would be noticed late.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// A stream may be silent for as long as it likes, so the kernel asks whether the other end is there:
/// after so long, and then so often and so many times before it is given up.
const ALIVE_AFTER: Duration = Duration::from_secs(10);
const ALIVE_EVERY: Duration = Duration::from_secs(5);
const ALIVE_TRIES: u32 = 3;

/// What leads to a cluster, as kubectl reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Files, the first with a say in anything having it; those that do not exist are passed over
    /// unless there is only one.
    pub kubeconfig: Vec<PathBuf>,
    /// Which of their contexts; the current one without it.
    pub context: Option<String>,
    /// Which namespace; the context's without it.
    pub namespace: Option<String>,
    /// What the environment says of proxies.
    pub proxies: Proxies,
}

/// What the files lead to.
pub(super) struct Entry {
    pub(super) client: Client,
    pub(super) server: String,
    pub(super) namespace: String,
    /// The context that was meant.
    pub(super) context: String,
    /// Who we are is good until then, if that is known.
    pub(super) until: Option<Timestamp>,
    /// All files that were read, those that are not there included.
    pub(super) files: Vec<PathBuf>,
}

impl Access {
    /// Reads the files and signs in.
    pub(super) async fn enter(&self) -> Result<Entry, ClusterError> {
        let merged = self.merged()?;
        let (name, context) = self.chosen(&merged)?;
        let server = found(&merged.clusters, |named| &named.name, &context.cluster)
            .and_then(|named| named.cluster.clone())
            .ok_or_else(|| self.unusable(format!("it has no cluster `{}`", context.cluster)))?;
        let mut user = match context.user.as_deref().filter(|user| !user.is_empty()) {
            None => AuthInfo::default(),
            Some(user) => found(&merged.auth_infos, |named| &named.name, user)
                .and_then(|named| named.auth_info.clone())
                .ok_or_else(|| self.unusable(format!("it has no user `{user}`")))?,
        };
        let files = self.files(&server, &user);
        if let Some(exec) = user.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
            let told = ExecAuthCluster::try_from(&server);
            exec.cluster = Some(told.map_err(|error| self.unreadable(&error))?);
        }
        let until = plugin::sign_in(&mut user).await?;
        let in_context = context.namespace.clone().filter(|name| !name.is_empty());
        let namespace = self.namespace.clone().or(in_context);
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let (config, proxy) = self.config(&server, user)?;
        let address = config.cluster_url.to_string();
        let client = client(config, proxy).map_err(|error| match error {
            kube::Error::Auth(why) => ClusterError::SignIn { why: why.to_string() },
            error => self.unreadable(&error),
        })?;
        let server = address.trim_end_matches('/').to_owned();
        Ok(Entry { client, server, namespace, context: name, until, files })
    }

    fn chosen(&self, merged: &Kubeconfig) -> Result<(String, Context), ClusterError> {
        let wanted = self.context.as_ref().or(merged.current_context.as_ref());
        let context = wanted.and_then(|name| found(&merged.contexts, |named| &named.name, name));
        match context.and_then(|named| Some((named.name.clone(), named.context.clone()?))) {
            Some(context) => Ok(context),
            None => Err(ClusterError::NoContext {
                wanted: wanted.cloned(),
                known: merged.contexts.iter().map(|context| context.name.clone()).collect(),
            }),
        }
    }

    /// What kube makes of a cluster and a user; kube's own way there asks the environment.
    fn config(
        &self,
        server: &Server,
        user: AuthInfo,
    ) -> Result<(Config, Option<Proxy>), ClusterError> {
        let address = server.server.as_deref().unwrap_or_default();
        let url = address.parse::<Uri>();
        let url = url.map_err(|error| self.unusable(format!("the server `{address}`: {error}")))?;
        let proxy = proxy::choose(&url, server.proxy_url.as_deref(), &self.proxies);
        let proxy = proxy.map_err(|why| self.unusable(why))?;
        let mut config = Config::new(url);
        let told = ExecAuthCluster::try_from(server).map_err(|error| self.unreadable(&error))?;
        if let Some(pem) = told.certificate_authority_data {
            let read = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
            let read =
                read.map_err(|error| self.unusable(format!("the certificate authority: {error}")))?;
            config.root_cert = Some(read.iter().map(|one| one.to_vec()).collect());
        }
        config.accept_invalid_certs = server.insecure_skip_tls_verify.unwrap_or(false);
        config.tls_server_name.clone_from(&server.tls_server_name);
        config.auth_info = user;
        Ok((config, proxy))
    }

    /// All files whose change changes who we are, or where.
    fn files(&self, server: &Server, user: &AuthInfo) -> Vec<PathBuf> {
        let named = [
            &server.certificate_authority,
            &user.client_certificate,
            &user.client_key,
            &user.token_file,
        ];
        let named = named.into_iter().flatten().map(PathBuf::from);
        self.kubeconfig.iter().cloned().chain(named).collect()
    }

    /// All files as one, as kubectl merges them.
    fn merged(&self) -> Result<Kubeconfig, ClusterError> {
        let several = self.kubeconfig.len() > 1;
        let mut merged: Option<Kubeconfig> = None;
        for path in &self.kubeconfig {
            if !path.exists() && several {
                continue;
            }
            let missing = !path.exists();
            let read = Kubeconfig::read_from(path).map_err(|error| match missing {
                true => ClusterError::NoKubeconfig { path: path.clone() },
                false => self.unreadable(&error),
            })?;
            merged = Some(match merged {
                None => read,
                Some(before) => before.merge(read).map_err(|error| self.unreadable(&error))?,
            });
        }
        let first = || self.kubeconfig.first().cloned().unwrap_or_default();
        merged.ok_or_else(|| ClusterError::NoKubeconfig { path: first() })
    }

    fn unreadable(&self, error: &dyn std::error::Error) -> ClusterError {
        self.unusable(error.to_string())
    }

    /// Why the files cannot be used.
    pub(super) fn unusable(&self, why: String) -> ClusterError {
        let paths = self.kubeconfig.iter().map(|path| path.display().to_string());
        let paths = paths.collect::<Vec<_>>().join(", ");
        ClusterError::Kubeconfig { paths, why }
    }
}

/// The first of that name.
fn found<'a, T>(all: &'a [T], name: impl Fn(&T) -> &String, wanted: &str) -> Option<&'a T> {
    all.iter().find(|one| name(one) == wanted)
}

/// kube's own client waits for acknowledgements before it sends the next small piece (Nagle), which
/// costs a save up to 40 ms; so its layers are put together here, over connectors that do not.
fn client(config: Config, proxy: Option<Proxy>) -> kube::Result<Client> {
    let tcp = tcp();
    match proxy {
        None => over(tcp, config),
        Some(Proxy::Http(proxy)) => over(tunnel(&proxy, tcp), config),
        // Trusted by the same certificates as the server, as in kubectl.
        Some(Proxy::Https(proxy)) => {
            let tls = config.rustls_https_connector_with_connector(tcp)?;
            over(tunnel(&proxy, tls), config)
        }
        Some(Proxy::Socks(proxy)) => {
            let credentials = proxy::credentials(&proxy);
            let socks = SocksV5::new(proxy, tcp);
            match credentials {
                Some((user, password)) => over(socks.with_auth(user, password), config),
                None => over(socks, config),
            }
        }
    }
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    tcp.set_keepalive(Some(ALIVE_AFTER));
    tcp.set_keepalive_interval(Some(ALIVE_EVERY));
    tcp.set_keepalive_retries(Some(ALIVE_TRIES));
    tcp
}

fn tunnel<C>(proxy: &Uri, connector: C) -> Tunnel<C> {
    use base64::Engine as _;
    let tunnel = Tunnel::new(proxy.clone(), connector);
    let basic = proxy::credentials(proxy).and_then(|(user, password)| {
        let both = format!("{user}:{password}");
        let both = base64::engine::general_purpose::STANDARD.encode(both);
        HeaderValue::from_str(&format!("Basic {both}")).ok()
    });
    match basic {
        Some(basic) => tunnel.with_auth(basic),
        None => tunnel,
    }
}

/// A client over what connects.
fn over<C>(connector: C, config: Config) -> kube::Result<Client>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError> + Send + Sync + std::error::Error + 'static,
{
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let executor = hyper_util::rt::TokioExecutor::new();
    let mut http = hyper_util::client::legacy::Builder::new(executor);
    http.pool_idle_timeout(KEPT_FOR);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http.build::<_, Body>(connector));
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::{socket_keepalive, tcp_keepcnt, tcp_keepidle, tcp_keepintvl};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_nobody_answers_any_more_ends_by_itself() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let made = tcp().call(address.parse().unwrap()).await.unwrap();
        let socket = made.inner();
        assert!(socket_keepalive(socket).unwrap());
        assert_eq!(tcp_keepidle(socket).unwrap(), ALIVE_AFTER);
        assert_eq!(tcp_keepintvl(socket).unwrap(), ALIVE_EVERY);
        assert_eq!(tcp_keepcnt(socket).unwrap(), ALIVE_TRIES);
    }
}
