//! Decides where the hub of a pod is and how it is reached: in a container of its own, or in the
//! app's, whose command is wrapper and hub at once (`e2ek-sidecar run --serve -- CMD`). Pure.
//!
//! All that is known is what the pod's manifest says. A command that the image brings is not seen, nor
//! what a shell makes of variables.

use super::SIDECAR;
use super::object::Container;

/// The program in the image of the hub's own container.
const PROGRAM: &str = "/e2ek-sidecar";

/// How the hub of a pod is reached: by a program in a container, which lends it its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The container that the hub runs in.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// What a container's command says of the wrapper in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrapper {
    /// As it stands there: a path, or a name in the container's PATH.
    program: String,
    /// It is the hub, too.
    pub(super) serves: bool,
    /// Where that listens, unless at the usual place.
    socket: Option<String>,
}

impl Bridge {
    /// To the hub in a container of its own.
    #[must_use]
    pub fn beside() -> Self {
        let command = [PROGRAM, "connect"].map(str::to_owned);
        Self { container: SIDECAR.to_owned(), command: command.into() }
    }

    /// To the hub in the app's container.
    pub(super) fn inside(container: &str, wrapper: Wrapper) -> Self {
        let mut command = vec![wrapper.program, "connect".to_owned()];
        let socket = wrapper.socket.map(|socket| ["--socket".to_owned(), socket]);
        command.extend(socket.into_iter().flatten());
        Self { container: container.to_owned(), command }
    }

    /// The program, for people.
    #[must_use]
    pub fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }
}

impl Wrapper {
    /// `/e2ek/e2ek-sidecar run -- CMD`, as the command, as its arguments or as a shell is told it.
    pub(super) fn of(container: &Container) -> Option<Self> {
        let words = || container.command.iter().chain(&container.args);
        let told = || words().filter_map(|word| shlex::split(word)).flatten().collect::<Vec<_>>();
        Self::among(&words().cloned().collect::<Vec<_>>()).or_else(|| Self::among(&told()))
    }

    fn among(words: &[String]) -> Option<Self> {
        let is_ours = |word: &String| word.rsplit('/').next() == Some("e2ek-sidecar");
        let at = words.windows(2).position(|two| is_ours(&two[0]) && two[1] == "run")?;
        let mut options = words[at + 2..].iter().take_while(|word| *word != "--");
        let mut this = Self { program: words[at].clone(), serves: false, socket: None };
        while let Some(option) = options.next() {
            match option.as_str() {
                "--serve" => this.serves = true,
                "--socket" => this.socket = options.next().cloned(),
                _ => {}
            }
        }
        Some(this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapper(command: &[&str], args: &[&str]) -> Option<Wrapper> {
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        let (command, args) = (words(command), words(args));
        Wrapper::of(&Container { name: "app".to_owned(), command, args })
    }

    fn bridge(command: &[&str], args: &[&str]) -> Option<Vec<String>> {
        let wrapper = wrapper(command, args).filter(|wrapper| wrapper.serves);
        wrapper.map(|wrapper| Bridge::inside("app", wrapper).command)
    }

    #[test]
    fn a_wrapper_is_seen_in_every_form_of_a_command() {
        let run = ["/e2ek/e2ek-sidecar", "run", "--", "python3", "app.py"];
        let shell = ["sh", "-c", "cd /srv && exec '/e2ek/e2ek-sidecar' run -- python3 app.py"];
        for (command, args) in
            [(&run[..], &[][..]), (&[], &run), (&run[..1], &run[1..]), (&shell, &[])]
        {
            let found = wrapper(command, args).unwrap();
            assert_eq!((&*found.program, found.serves), (run[0], false), "{command:?} {args:?}");
        }
        for other in [
            &["python3", "app.py"][..],
            &["/e2ek/e2ek-sidecar", "serve"],
            &["/my-e2ek-sidecar", "run", "--serve", "--", "app"],
            &["sh", "-c", "it's broken; e2ek-sidecar run"],
        ] {
            assert_eq!(wrapper(other, &[]), None, "{other:?}");
        }
    }

    #[test]
    fn the_bridge_is_the_program_that_stands_in_the_command() {
        let found = |command: &[&str], args: &[&str]| bridge(command, args).unwrap_or_default();
        let run = ["/my tools/e2ek-sidecar", "run", "--hold", "5", "--serve", "--"];
        assert_eq!(found(&run, &["app"]), ["/my tools/e2ek-sidecar", "connect"]);
        assert_eq!(
            found(&["sh", "-c", "e2ek-sidecar run --serve -- app"], &[]),
            ["e2ek-sidecar", "connect"]
        );
        let socket = ["e2ek-sidecar", "run", "--socket", "/srv/a hub", "--serve"];
        let to = ["e2ek-sidecar", "connect", "--socket", "/srv/a hub"];
        assert_eq!(found(&socket, &["--", "app"]), to);
        // What the app itself is told is not the wrapper's.
        let app = ["/e2ek/e2ek-sidecar", "run", "--", "app", "--serve", "--socket", "x"];
        assert_eq!(bridge(&app, &[]), None);
    }
}
