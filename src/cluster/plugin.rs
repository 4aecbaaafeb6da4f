//! Runs the program that a kubeconfig names for signing in (`users[].user.exec`), as kubectl does.
//!
//! kube's own way is not used: it runs the program twice for one client, holds up everything else
//! meanwhile, takes a terminal for granted, and does not renew certificates.

use std::io::IsTerminal;
use std::process::Stdio;

use jiff::Timestamp;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::ClusterError;

/// What the program is told, and what it says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credential {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// Signs in: `user` has what the program gave in place of the program. Until when that is good, if it
/// says so. The program has our terminal if it wants one and there is one, and may take its time; it
/// is ended with the future.
///
/// # Errors
/// When it cannot be run, fails, or says what makes no sense.
pub(super) async fn sign_in(user: &mut AuthInfo) -> Result<Option<Timestamp>, ClusterError> {
    let Some(exec) = user.exec.take() else { return Ok(None) };
    let program = exec.command.clone().unwrap_or_default();
    let failed = |why: String| ClusterError::SignIn { why: format!("{program}: {why}") };
    let mut command = command(&exec).map_err(failed)?;
    let output = command.output().await.map_err(|error| {
        let hint = exec.install_hint.as_ref().map(|hint| format!("; {}", hint.trim()));
        failed(format!("{error}{}", hint.unwrap_or_default()))
    })?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let said = read(&output.stdout, &exec).map_err(failed)?;
    let until = said.expiration_timestamp.filter(|text| !text.is_empty()).map(|text| {
        let time = text.parse::<Timestamp>();
        time.map_err(|error| failed(format!("the time {text:?} at which it ends: {error}")))
    });
    if let Some(token) = said.token.filter(|token| !token.is_empty()) {
        user.token = Some(token.into());
    }
    if let (Some(certificate), Some(key)) = (said.client_certificate_data, said.client_key_data) {
        use base64::Engine as _;
        let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
        user.client_certificate_data = Some(encode(certificate));
        user.client_key_data = Some(encode(key).into());
    }
    until.transpose()
}

fn command(exec: &ExecConfig) -> Result<Command, String> {
    let program = exec.command.as_ref().filter(|program| !program.is_empty());
    let program = program.ok_or("the kubeconfig names no program")?;
    let terminal = std::io::stdin().is_terminal();
    let interactive = match exec.interactive_mode {
        Some(ExecInteractiveMode::Never) => false,
        Some(ExecInteractiveMode::Always) if !terminal => {
            return Err("it wants a terminal, and there is none".to_owned());
        }
        Some(ExecInteractiveMode::Always | ExecInteractiveMode::IfAvailable) | None => terminal,
    };
    let mut spec = serde_json::json!({ "interactive": interactive });
    if let Some(cluster) = exec.cluster.as_ref().filter(|_| exec.provide_cluster_info) {
        spec["cluster"] = serde_json::to_value(cluster).map_err(|error| error.to_string())?;
    }
    let asked = Credential {
        kind: "ExecCredential".to_owned(),
        api_version: exec.api_version.clone().unwrap_or_default(),
        spec: Some(spec),
        status: None,
    };
    let asked = serde_json::to_string(&asked).map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(exec.args.iter().flatten());
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    command.env("KUBERNETES_EXEC_INFO", asked).kill_on_drop(true);
    command.stdin(if interactive { Stdio::inherit() } else { Stdio::null() });
    // What it asks of people, and why it failed, is for them to read.
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    Ok(command)
}

fn read(output: &[u8], exec: &ExecConfig) -> Result<Status, String> {
    // Some write YAML, which kubectl takes.
    let said: Credential = serde_json::from_slice(output)
        .or_else(|_| serde_saphyr::from_slice(output))
        .map_err(|error| format!("what it says cannot be read: {error}"))?;
    let wanted = exec.api_version.as_deref().unwrap_or_default();
    if said.kind != "ExecCredential" || said.api_version != wanted {
        let (kind, version) = (said.kind, said.api_version);
        return Err(format!("it answers with {kind:?} of {version:?}, not of {wanted:?}"));
    }
    let status = said.status.ok_or("it gives no credential")?;
    let token = status.token.as_ref().is_some_and(|token| !token.is_empty());
    match (token, &status.client_certificate_data, &status.client_key_data) {
        (_, Some(_), None) | (_, None, Some(_)) => {
            Err("it gives a certificate without its key, or a key without its certificate".into())
        }
        (false, None, None) => Err("it gives neither a token nor a certificate".into()),
        _ => Ok(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "client.authentication.k8s.io/v1";

    /// A user whose program is a shell with this script.
    fn user(script: &str, more: serde_json::Value) -> AuthInfo {
        let mut exec = serde_json::json!({
            "apiVersion": VERSION, "command": "sh", "args": ["-c", script],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            exec[key] = value.clone();
        }
        serde_json::from_value(serde_json::json!({ "exec": exec })).unwrap()
    }

    fn run(user: &mut AuthInfo) -> Result<Option<Timestamp>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sign_in(user)).map_err(|error| error.to_string())
    }

    fn answer(status: &str) -> String {
        format!(
            "echo '{{\"apiVersion\":\"{VERSION}\",\"kind\":\"ExecCredential\",\"status\":{status}}}'"
        )
    }

    #[test]
    fn what_the_program_gives_takes_its_place() {
        let script = answer(r#"{"token":"t","expirationTimestamp":"2030-01-01T00:00:00Z"}"#);
        let mut with_token = user(&script, serde_json::json!({}));
        let until = run(&mut with_token).unwrap();
        assert_eq!(until, Some("2030-01-01T00:00:00Z".parse().unwrap()));
        assert!(with_token.token.is_some() && with_token.exec.is_none());

        let script = answer(r#"{"clientCertificateData":"C","clientKeyData":"K"}"#);
        let mut with_certificate = user(&script, serde_json::json!({}));
        assert_eq!(run(&mut with_certificate), Ok(None));
        assert_eq!(with_certificate.client_certificate_data.as_deref(), Some("Qw=="));
        assert!(with_certificate.client_key_data.is_some());

        let yaml = format!(
            "printf 'apiVersion: {VERSION}\\nkind: ExecCredential\\nstatus:\\n  token: t\\n'"
        );
        assert_eq!(run(&mut user(&yaml, serde_json::json!({}))), Ok(None));
    }

    #[test]
    fn the_program_is_told_what_it_needs() {
        // Fails unless all of it is there; standard input is at its end.
        let script = format!(
            "[ \"$A\" = b ] && ! read -r line && case $KUBERNETES_EXEC_INFO in \
             *{VERSION}*interactive*:false*) {}; esac",
            answer(r#"{"token":"t"}"#)
        );
        let more = serde_json::json!({
            "env": [{"name": "A", "value": "b"}], "interactiveMode": "Never",
        });
        assert_eq!(run(&mut user(&script, more)), Ok(None));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_the_program() {
        let other = answer(r#"{"token":"t"}"#).replace("/v1", "/v1beta1");
        let late = answer(r#"{"token":"t","expirationTimestamp":"soon"}"#);
        let half = answer(r#"{"clientCertificateData":"C"}"#);
        for (script, part) in [
            ("exit 3", "sh: exit status: 3"),
            ("echo hello", "sh: "),
            ("", "sh: "),
            (&*answer("{}"), "neither a token nor a certificate"),
            (&*half, "without its key"),
            (&*other, "v1beta1"),
            (&*late, "\"soon\""),
        ] {
            let error = run(&mut user(script, serde_json::json!({}))).unwrap_err();
            assert!(error.contains("signing in failed") && error.contains(part), "{error}");
        }
        let more = serde_json::json!({"command": "/not/there", "installHint": "\nget it there\n"});
        let error = run(&mut user("", more)).unwrap_err();
        assert!(error.contains("/not/there") && error.ends_with("; get it there"), "{error}");
    }
}
