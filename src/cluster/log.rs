//! Follows what a container says on its standard streams, as the cluster keeps it.
//!
//! Each line comes once: it carries the node's own time, which is where a stream that was cut goes on.
//! What was said before the first look is not shown.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{AsyncBufRead as _, AsyncBufReadExt as _};

use super::object::{check_name, query};
use super::{Ask, Cluster, ClusterError};

/// Between two looks at a log that is not there yet, or whose stream ended.
const AGAIN: Duration = Duration::from_secs(1);
/// A longer line is shown in parts.
const LINE_BYTES: usize = 64 << 10;

/// Where a log was left.
struct Mark {
    /// When it was looked for first: what was said since is new.
    begun: Option<Instant>,
    /// Time of the last line.
    last: String,
}

impl Cluster {
    /// Hands over whole lines as they come, until `take` answers that nobody listens.
    ///
    /// # Errors
    /// When it must not be read. Whatever else goes wrong is tried again: whoever asked ends it when
    /// the pod is gone.
    pub async fn follow_log<F: Future<Output = bool>>(
        &self,
        pod: &str,
        container: &str,
        mut take: impl FnMut(Vec<u8>) -> F,
    ) -> Result<(), ClusterError> {
        check_name("pod", pod)?;
        let mut mark = Mark { begun: None, last: String::new() };
        loop {
            match self.one_log(pod, container, &mut mark, &mut take).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error @ ClusterError::Forbidden { .. }) => return Err(error),
                Err(error) => tracing::debug!(pod, %error, "the log is not read"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// One stream of it. Whether somebody still listens.
    async fn one_log<F: Future<Output = bool>>(
        &self,
        pod: &str,
        container: &str,
        mark: &mut Mark,
        take: &mut impl FnMut(Vec<u8>) -> F,
    ) -> Result<bool, ClusterError> {
        let (namespace, container) = (self.namespace(), query(container));
        let from = mark.from(Instant::now());
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}&follow=true\
             &timestamps=true&{from}"
        );
        let ask = Ask { path, verb: "get", resource: "pods/log" };
        let asked = self.ready().await?;
        let stream = self.in_time(asked.client.request_stream(ask.request()?)).await?;
        let mut stream = pin!(stream.map_err(|error| self.failed(&ask, error))?);
        let (mut line, mut whole) = (Vec::new(), true);
        loop {
            let (used, ended) = {
                let Ok(bytes) = stream.fill_buf().await else { return Ok(true) };
                if bytes.is_empty() {
                    return Ok(true);
                }
                let end = bytes.iter().position(|b| *b == b'\n');
                let room = LINE_BYTES.saturating_sub(line.len()).max(1);
                let used = end.map_or(bytes.len(), |end| end + 1).min(room);
                line.extend_from_slice(&bytes[..used]);
                (used, line.ends_with(b"\n"))
            };
            stream.as_mut().consume(used);
            if !ended && line.len() < LINE_BYTES {
                continue;
            }
            let bytes = std::mem::take(&mut line);
            let news = if whole { mark.news(bytes) } else { Some(bytes) };
            whole = ended;
            if let Some(news) = news
                && !take(news).await
            {
                return Ok(false);
            }
        }
    }
}

impl Mark {
    /// What a look at this moment asks for, as a part of the query.
    fn from(&mut self, now: Instant) -> String {
        match (self.begun, self.last.as_str()) {
            (None, _) => {
                self.begun = Some(now);
                "tailLines=0".to_owned()
            }
            // In the node's own time: its clock may be another than ours.
            (Some(begun), "") => {
                let since = now.saturating_duration_since(begun).as_secs() + 1;
                format!("sinceSeconds={since}")
            }
            (Some(_), last) => format!("sinceTime={}", query(last)),
        }
    }

    /// A line without its time; `None` when it was told before.
    fn news(&mut self, line: Vec<u8>) -> Option<Vec<u8>> {
        let Some(space) = line.iter().position(|b| *b == b' ') else { return Some(line) };
        let Ok(time) = std::str::from_utf8(&line[..space]) else { return Some(line) };
        // The node writes all with the same number of digits, in UTC: they compare as text.
        if time <= self.last.as_str() {
            return None;
        }
        time.clone_into(&mut self.last);
        Some(line[space + 1..].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_the_first_look_is_never_asked_for() {
        let (mut mark, now) = (Mark { begun: None, last: String::new() }, Instant::now());
        assert_eq!(mark.from(now), "tailLines=0");
        // It ended, or was not there yet, before a line came.
        assert_eq!(mark.from(now + Duration::from_millis(2500)), "sinceSeconds=3");
        mark.news(b"2026-01-01T00:00:00.5Z one\n".to_vec());
        assert_eq!(mark.from(now), "sinceTime=2026-01-01T00%3A00%3A00.5Z");
    }

    #[test]
    fn each_line_is_told_once_and_without_its_time() {
        let mut mark = Mark { begun: None, last: String::new() };
        let line = |text: &str| text.as_bytes().to_vec();
        let first = line("2026-01-01T00:00:00.000000001Z one\n");
        assert_eq!(mark.news(first.clone()), Some(line("one\n")));
        assert_eq!(mark.news(first), None);
        let second = line("2026-01-01T00:00:00.000000002Z \n");
        assert_eq!(mark.news(second), Some(line("\n")));
        assert_eq!(mark.last, "2026-01-01T00:00:00.000000002Z");
    }
}
