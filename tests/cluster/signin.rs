//! Who we are, as it changes while we run: certificates that programs give, files that are replaced,
//! and a clock that is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::pods::deployment;
use crate::rig::{Rig, until};

const TARGET: &str = "deploy/app:/srv/app";
const VERSION: &str = "client.authentication.k8s.io/v1";

/// The word after `key: "` in the rig's kubeconfig.
pub(crate) fn word(rig: &Rig, key: &str) -> String {
    let own = fs::read_to_string(rig.cluster.join("kubeconfig")).unwrap();
    let after = own.split_once(&format!("{key}: \"")).unwrap().1;
    after.split('"').next().unwrap().to_owned()
}

/// A kubeconfig with this user.
pub(crate) fn kubeconfig(rig: &Rig, user: &Value) -> String {
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": user}],
        "clusters": [{"name": "c", "cluster": {"server": word(rig, "server"),
            "certificate-authority": word(rig, "certificate-authority")}}]});
    let path = rig.home.join("signin");
    fs::write(&path, config.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A program that signs in, and notes each time in `asked`.
pub(crate) fn program(rig: &Rig, script: &str) -> Value {
    let (path, asked) = (rig.home.join("program"), rig.home.join("asked"));
    fs::write(&path, format!("#!/bin/sh\necho asked >> {}\n{script}\n", asked.display())).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&path, executable).unwrap();
    json!({"exec": {"apiVersion": VERSION, "interactiveMode": "Never",
        "command": path.to_str().unwrap()}})
}

/// How often that was asked.
pub(crate) fn asked(rig: &Rig) -> usize {
    fs::read_to_string(rig.home.join("asked")).map_or(0, |text| text.lines().count())
}

/// A certificate of the rig's authority and its key, for an hour and more.
fn certificate(rig: &Rig, name: &str, group: &str) -> [PathBuf; 2] {
    let at = |end: &str| rig.home.join(format!("{name}.{end}"));
    let (key, request, certificate) = (at("key"), at("csr"), at("crt"));
    let openssl = |words: &[&dyn AsRef<std::ffi::OsStr>]| {
        let done = Command::new("openssl").args(words.iter().map(|w| w.as_ref())).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let subject = format!("/O={group}/CN={name}");
    openssl(&[
        &"req",
        &"-new",
        &"-newkey",
        &"rsa:2048",
        &"-nodes",
        &"-keyout",
        &key,
        &"-subj",
        &subject,
        &"-out",
        &request,
    ]);
    // Of version 3, which is the oldest that is taken.
    let extensions = at("ext");
    fs::write(&extensions, "extendedKeyUsage=clientAuth\n").unwrap();
    let pki = rig.cluster.join("pki");
    let (authority, authority_key) = (pki.join("ca.crt"), pki.join("ca.key"));
    openssl(&[
        &"x509",
        &"-req",
        &"-in",
        &request,
        &"-CA",
        &authority,
        &"-CAkey",
        &authority_key,
        &"-set_serial",
        &"4711",
        &"-extfile",
        &extensions,
        &"-days",
        &"1",
        &"-out",
        &certificate,
    ]);
    [certificate, key]
}

/// A shell's words that say when a credential ends.
fn ends_in(seconds: u32) -> String {
    format!("ends=$(date -u -d '+{seconds} seconds' +%Y-%m-%dT%H:%M:%SZ)")
}

/// Waits until a program was last asked so long ago.
fn until_old(rig: &Rig, seconds: u64) {
    let asked = rig.home.join("asked");
    until("time passes", || {
        fs::metadata(&asked).unwrap().modified().unwrap().elapsed().unwrap().as_secs() >= seconds
    });
}

#[test]
fn a_certificate_that_a_program_gives_is_renewed_before_it_ends() {
    let Some(rig) = Rig::new("certificate") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let [certificate, key] = certificate(&rig, "admin-by-program", "system:masters");
    let line = |path: &Path| fs::read_to_string(path).unwrap().replace('\n', "\\\\n");
    let script = format!(
        "{}\nprintf '{{\"apiVersion\":\"{VERSION}\",\"kind\":\"ExecCredential\",\"status\":\
         {{\"clientCertificateData\":\"{}\",\"clientKeyData\":\"{}\",\
         \"expirationTimestamp\":\"%s\"}}}}' $ends",
        ends_in(10),
        line(&certificate),
        line(&key)
    );
    let config = kubeconfig(&rig, &program(&rig, &script));
    let began = std::time::Instant::now();
    let mut watch = rig.watch(TARGET, &["--kubeconfig", &config]);
    watch.line(&["sync end", "gen=1"]);
    // Not used in its last five seconds: on a slow machine it is asked for again meanwhile.
    let most = 1 + began.elapsed().as_secs() as usize / 5;
    assert!(asked(&rig) <= most, "{} times: once for all that is asked of the server", asked(&rig));
    until_old(&rig, 6);
    let before = asked(&rig);
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    watch.line(&["pod found"]);
    watch.line(&["sync end", "targets=1/1"]);
    assert!(asked(&rig) > before, "it was asked again");
    watch.stop();
}

#[test]
fn files_that_are_replaced_are_read_again() {
    let Some(rig) = Rig::new("rotation") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let first = certificate(&rig, "first", "system:masters");
    let at = ["client.crt", "client.key"].map(|name| rig.home.join(name));
    let put = |from: &[PathBuf; 2]| {
        for (from, to) in from.iter().zip(&at) {
            // As those who rotate do it: never half.
            fs::copy(from, to.with_extension("new")).unwrap();
            fs::rename(to.with_extension("new"), to).unwrap();
        }
    };
    put(&first);
    let config = kubeconfig(
        &rig,
        // Relative to the file that names them.
        &json!({"client-certificate": "client.crt", "client-key": "client.key"}),
    );
    let mut watch = rig.watch(TARGET, &["--kubeconfig", &config]);
    watch.line(&["sync end", "gen=1"]);
    // Nobody's, by which the old ones are seen not to be used any more.
    put(&certificate(&rig, "nobody", "none"));
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    watch.line(&["nobody"]);
    put(&certificate(&rig, "second", "system:masters"));
    if watch.said().contains("kind=forbidden") {
        // Pods that come could not be seen any more.
        assert_eq!(watch.wait(), Some(4));
    }
    drop(watch);
    // A context that becomes current meanwhile is another place, or another user's: nobody's here.
    let mut watch = rig.watch(TARGET, &["--kubeconfig", &config]);
    watch.line(&["sync end"]);
    let text = fs::read_to_string(&config).unwrap();
    let [certificate, key] = certificate(&rig, "nobody", "none");
    let mut other: Value = serde_json::from_str(&text).unwrap();
    let list = |other: &mut Value, name: &str, one: Value| {
        other[name].as_array_mut().unwrap().push(one);
    };
    let two = json!({"name": "two", "context": {"cluster": "c", "user": "v"}});
    list(&mut other, "contexts", two);
    let files = json!({"client-certificate": certificate, "client-key": key});
    list(&mut other, "users", json!({"name": "v", "user": files}));
    other["current-context"] = json!("two");
    fs::write(&config, other.to_string()).unwrap();
    let pod = rig.pods().remove(0);
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    watch.line(&["pod gone", &pod]);
    watch.line(&["sync end", "targets=1/1"]);
    // Nor is another server that the same context leads to by now.
    fs::write(&config, text.replace(":16443", ":1")).unwrap();
    let pod = rig.pods().remove(0);
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    watch.line(&["pod gone", &pod]);
    watch.line(&["sync end", "targets=1/1"]);
    watch.stop();
}

/// Something to load before the C library, so that the wall's clock is an hour off.
fn wrong_clock(rig: &Rig, seconds: i64) -> PathBuf {
    let (source, library) = (rig.home.join("clock.c"), rig.home.join(format!("clock{seconds}.so")));
    let text = format!(
        "#define _GNU_SOURCE\n#include <time.h>\n#include <sys/time.h>\n#include <unistd.h>\n\
         #include <sys/syscall.h>\n\
         int clock_gettime(clockid_t id, struct timespec *t) {{\n\
           int r = syscall(SYS_clock_gettime, id, t);\n\
           if (r == 0 && id == CLOCK_REALTIME) t->tv_sec += {seconds};\n  return r;\n}}\n\
         int gettimeofday(struct timeval *restrict t, void *restrict z) {{\n\
           int r = syscall(SYS_gettimeofday, t, z);\n  if (r == 0) t->tv_sec += {seconds};\n\
           return r;\n}}\n\
         time_t time(time_t *t) {{\n  struct timespec n; clock_gettime(CLOCK_REALTIME, &n);\n\
           if (t) *t = n.tv_sec;\n  return n.tv_sec;\n}}\n"
    );
    fs::write(&source, text).unwrap();
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut compile = Command::new(cc);
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
    assert!(compile.status().unwrap().success());
    library
}

#[test]
fn a_laptop_whose_clock_is_an_hour_off_syncs_all_the_same() {
    let Some(rig) = Rig::new("clock") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    // By the cluster's clock it ends in half an hour: an hour ago, or in an hour and a half.
    let script = format!(
        "unset LD_PRELOAD\n{}\necho '{{\"apiVersion\":\"{VERSION}\",\"kind\":\"ExecCredential\",\
         \"status\":{{\"token\":\"{}\",\"expirationTimestamp\":\"'$ends'\"}}}}'",
        ends_in(1800),
        word(&rig, "token")
    );
    let config = kubeconfig(&rig, &program(&rig, &script));
    // The rig's own certificate may be younger than an hour.
    let trusting = fs::read_to_string(&config).unwrap();
    let mut trusting: Value = serde_json::from_str(&trusting).unwrap();
    let cluster = trusting["clusters"][0]["cluster"].as_object_mut().unwrap();
    cluster.remove("certificate-authority");
    cluster.insert("insecure-skip-tls-verify".to_owned(), json!(true));
    fs::write(&config, trusting.to_string()).unwrap();
    for (round, off) in [3600, -3600].into_iter().enumerate() {
        let before = asked(&rig);
        let mut command = rig.syncing(&["watch"], TARGET, &["--kubeconfig", &config]);
        command.env("LD_PRELOAD", wrong_clock(&rig, off));
        let mut watch = rig.start(command);
        watch.line(&["connected"]);
        for save in 0..3 {
            let text = format!("{round} {save}\n");
            rig.write("view.py", &text);
            watch.flush();
            assert_eq!(rig.seen(&pod, "/srv/app/view.py"), Some(text), "{off}");
        }
        // A second look finds nothing to do: the stamps of files are those of this machine.
        rig.control(&["reset"]).ends_with(0);
        watch.flush();
        assert_eq!(
            asked(&rig),
            before + 1,
            "a token that seems to have ended is used all the same"
        );
        assert_eq!(watch.status()["state"], "synced");
        watch.stop();
    }
}
