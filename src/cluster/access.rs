//! Owns the way from kubeconfig files to a client.

use std::path::PathBuf;
use std::time::Duration;

use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::ClusterError;

/// How long the API server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

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
}

impl Access {
    /// A client, the server's address and the namespace.
    pub(super) async fn client(&self) -> Result<(Client, String, String), ClusterError> {
        let merged = self.merged()?;
        let contexts = || merged.contexts.iter().map(|context| context.name.clone()).collect();
        let wanted = self.context.as_ref().or(merged.current_context.as_ref());
        let known = |name: &String| merged.contexts.iter().any(|context| &context.name == name);
        match wanted {
            None => return Err(ClusterError::NoContext { wanted: None, known: contexts() }),
            Some(name) if !known(name) => {
                return Err(ClusterError::NoContext {
                    wanted: Some(name.clone()),
                    known: contexts(),
                });
            }
            Some(_) => {}
        }
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let config = Config::from_custom_kubeconfig(merged, &options).await;
        let mut config = config.map_err(|error| self.unreadable(&error))?;
        config.connect_timeout = Some(CONNECT_WITHIN);
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => config.default_namespace.clone(),
        };
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_owned();
        let client = client(config).map_err(|error| match error {
            kube::Error::Auth(why) => ClusterError::SignIn { why: why.to_string() },
            error => self.unreadable(&error),
        })?;
        Ok((client, server, namespace))
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
        let paths = self.kubeconfig.iter().map(|path| path.display().to_string());
        let paths = paths.collect::<Vec<_>>().join(", ");
        ClusterError::Kubeconfig { paths, why: error.to_string() }
    }
}

/// kube's own client waits for acknowledgements before it sends the next small piece (Nagle), which
/// costs a save up to 40 ms; so its layers are put together here, over a connector that does not.
/// Where a proxy is named, it is kube's own all the same.
fn client(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut connector = hyper_util::client::legacy::connect::HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let executor = hyper_util::rt::TokioExecutor::new();
    let http = hyper_util::client::legacy::Builder::new(executor).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
