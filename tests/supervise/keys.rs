//! Row 8: Ctrl-C and Ctrl-Z on a terminal, under `supervise` and under `watch`, which share the
//! engine and nothing else: `watch` runs it in its hub.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::run::{command, eventually, field, runs};
use super::terminal::{READER, Terminal, on_terminal, supervised};

/// Ends well when asked.
const POLITE: &str = "trap 'exit 0' INT; echo up-$((1 + 1)); while :; do sleep 0.02; done";

/// The same; starts nothing, because a shell that waits for a vfork is not to be stopped.
const QUIET: &str = "
    trap 'exit 0' INT; mkfifo pipe 2> /dev/null; exec 3<> pipe
    echo up-$((1 + 1)); while :; do read line <&3; done";

/// Never ends by a signal that can be ignored.
const STUBBORN: &str = "trap '' INT; echo up-$((1 + 1)); while :; do sleep 0.02; done";

/// The same script under both; `supervise` holds as `watch` does when the script ends by itself.
fn under_both(flags: &[&str], script: &str, test: impl Fn(Terminal)) {
    let supervise = [flags, &["--no-restart-on-command-exit"]].concat();
    test(supervised(&supervise, script));
    let directory = tempfile::tempdir().unwrap();
    let watch = watch(&directory, flags, &["sh", "-c", script]);
    test(watched(directory, watch));
}

/// `watch` with these words, from and to below the directory.
fn watch(directory: &TempDir, flags: &[&str], argv: &[&str]) -> Command {
    let [source, target, state, runtime] =
        ["source", "target", "state", "runtime"].map(|name| directory.path().join(name));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("first.py"), "1").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sync"));
    command.args(["watch", "--state-dir"]).arg(state).args(flags);
    command.args([source, target]).arg("--").args(argv).env("XDG_RUNTIME_DIR", runtime);
    command.current_dir(directory.path());
    command
}

fn watched(directory: TempDir, command: Command) -> Terminal {
    let source = directory.path().join("source");
    let mut terminal = on_terminal(directory, command);
    terminal.source = source;
    terminal
}

fn pid_of(terminal: &Terminal) -> i32 {
    i32::try_from(terminal.child.id()).unwrap()
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The sentinels below a process, with the group that each stands in.
fn sentinels(top: i32) -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let number = |pid: i32, index| field(pid, index)?.parse::<i32>().ok();
    let below = |pid: i32| {
        let parent = number(pid, 1);
        parent == Some(top) || parent.and_then(|parent| number(parent, 1)) == Some(top)
    };
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let sentinels = pids.into_iter().filter(|pid| name(*pid) == "e2ek-sentinel\n" && below(*pid));
    sentinels.filter_map(|pid| Some((pid, number(pid, 2)?))).collect()
}

/// Waits until the sentinel has passed on what the terminal sent to its group.
fn until_heard(terminal: &Terminal) {
    // It names itself in its own time.
    let one = || <[_; 1]>::try_from(sentinels(pid_of(terminal))).ok();
    let [(sentinel, _)] = eventually(one);
    let pending = || {
        let status = fs::read_to_string(format!("/proc/{sentinel}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:\t")).unwrap();
        u64::from_str_radix(mask, 16).unwrap()
    };
    eventually(|| (pending() == 0 && field(sentinel, 0)? == "S").then_some(()));
}

#[test]
fn ctrl_c_ends_the_command_and_then_us_with_130() {
    under_both(&[], READER, |mut terminal| {
        terminal.expect("foreground");
        terminal.keys("\x03");
        assert_eq!(terminal.wait(), Some(130));
    });
}

#[test]
fn one_ctrl_c_is_enough_when_the_command_exits_well_on_it() {
    under_both(&[], POLITE, |mut terminal| {
        terminal.expect("up-2");
        terminal.keys("\x03");
        assert_eq!(terminal.wait(), Some(130));
    });
    // And where it would be started again.
    let mut terminal = supervised(&[], POLITE);
    terminal.expect("up-2");
    terminal.keys("\x03");
    assert_eq!(terminal.wait(), Some(130));
}

#[test]
fn a_restart_by_the_same_signal_ends_nobody() {
    under_both(&[], POLITE, |mut terminal| {
        terminal.expect("up-2");
        for name in ["a.py", "b.py"] {
            terminal.save(name);
            terminal.expect("up-2");
        }
        terminal.keys("\x03");
        assert_eq!(terminal.wait(), Some(130));
    });
}

#[test]
fn an_interrupt_that_no_terminal_sent_ends_nobody() {
    let script = "trap 'exit 0' INT; echo up-$((1 + 1)); read line; kill -INT 0; sleep 1000";
    under_both(&[], script, |mut terminal| {
        terminal.expect("up-2");
        // To the whole group, by the command itself: held, as any end by itself.
        terminal.keys("\n");
        eventually(|| sentinels(pid_of(&terminal)).is_empty().then_some(()));
        terminal.save("a.py");
        terminal.expect("up-2");
        terminal.keys("\x03");
        assert_eq!(terminal.wait(), Some(130));
    });
}

#[test]
fn a_command_that_goes_on_after_ctrl_c_has_it_for_itself() {
    let script = "
        trap 'trap \"exit 0\" INT; echo first-$((1 + 1))' INT
        echo up-$((1 + 1))
        while :; do sleep 0.02; done";
    under_both(&[], script, |mut terminal| {
        terminal.expect("up-2");
        terminal.keys("\x03");
        terminal.expect("first-2");
        until_heard(&terminal);
        // A restart begins anew.
        terminal.save("a.py");
        terminal.expect("up-2");
        terminal.keys("\x03");
        terminal.expect("first-2");
        terminal.keys("\x03");
        assert_eq!(terminal.wait(), Some(130));
    });
}

/// Presses Ctrl-C, for several may come as one, until there is an exit code.
fn interrupted_until_it_ends(terminal: &mut Terminal) -> Option<i32> {
    eventually(|| {
        terminal.keys("\x03");
        terminal.child.try_wait().unwrap()
    });
    terminal.wait()
}

#[test]
fn two_in_a_row_end_also_a_command_that_ignores_them() {
    under_both(&["--kill-after", "0.2s"], STUBBORN, |mut terminal| {
        terminal.expect("up-2");
        // Two may come as one.
        assert_eq!(interrupted_until_it_ends(&mut terminal), Some(130));
    });
}

#[test]
fn ctrl_c_while_a_restart_ends_the_command_is_no_restart() {
    let script = "
        trap 'echo ending-$((1 + 1))' INT
        echo up-$((1 + 1))
        while :; do sleep 0.02; done";
    under_both(&["--kill-after", "1h"], script, |mut terminal| {
        terminal.expect("up-2");
        terminal.save("a.py");
        terminal.expect("ending-2");
        // It may come as one with our own signal, which is just on its way.
        assert_eq!(interrupted_until_it_ends(&mut terminal), Some(130));
        terminal.never_said("up-2");
    });
}

#[test]
fn a_third_ctrl_c_does_not_wait_for_the_command() {
    under_both(&["--kill-after", "1h"], STUBBORN, |mut terminal| {
        terminal.expect("up-2");
        // They may come as one.
        assert_eq!(interrupted_until_it_ends(&mut terminal), Some(130));
    });
}

#[test]
fn ctrl_c_reaches_us_when_the_command_has_ended() {
    under_both(&[], "echo ended-$((1 + 1))", |mut terminal| {
        terminal.expect("ended-2");
        // Whether the command, nobody or we have the terminal by now: it is heard.
        terminal.keys("\x03");
        assert_eq!(terminal.wait(), Some(130));
    });
}

#[test]
fn ctrl_c_reaches_us_when_the_command_cannot_be_started() {
    let directory = tempfile::tempdir().unwrap();
    let watch = watch(&directory, &[], &["/no/such/program"]);
    let mut terminal = watched(directory, watch);
    terminal.expect("could not be started");
    terminal.keys("\x03");
    assert_eq!(terminal.wait(), Some(130));
}

#[test]
fn i8_the_sentinel_holds_nothing_and_goes_with_us() {
    under_both(&[], POLITE, |mut terminal| {
        terminal.expect("up-2");
        // It names itself in its own time.
        let top = pid_of(&terminal);
        let one = || <[_; 1]>::try_from(sentinels(top)).ok();
        let [(sentinel, group)] = eventually(one);
        assert_ne!(group, sentinel, "it stands in the command's group");
        let open = |name: &str| fs::read_link(format!("/proc/{sentinel}/fd/{name}")).unwrap();
        let mut names: Vec<_> = fs::read_dir(format!("/proc/{sentinel}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0", "1"]);
        assert!(open("0").to_str().unwrap().starts_with("socket:"));
        assert_eq!(open("1"), Path::new("anon_inode:[signalfd]"));
        // Stopped with the group, as a debugger may: it does not keep us from anything.
        kill(sentinel, Signal::STOP);
        terminal.save("a.py");
        terminal.expect("up-2");
        eventually(|| (!runs(sentinel)).then_some(()));
        let [(second, _)] = eventually(one);
        let hub = field(second, 1).unwrap().parse().unwrap();
        kill(hub, Signal::KILL);
        eventually(|| (!runs(second)).then_some(()));
    });
}

/// Words that a shell takes apart as they were.
fn typed(command: &Command) -> String {
    let quote =
        |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
    let mut words = vec![quote(command.get_program())];
    words.extend(command.get_args().map(quote));
    words.join(" ")
}

/// Runs the command from an interactive shell, with job control.
fn from_a_shell(directory: TempDir, inner: &Command) -> Terminal {
    fs::write(directory.path().join("line"), typed(inner)).unwrap();
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "prompt> ");
    shell.env("XDG_RUNTIME_DIR", directory.path().join("runtime"));
    shell.current_dir(directory.path());
    let mut terminal = on_terminal(directory, shell);
    terminal.expect("prompt> ");
    terminal.keys(". ./line\n");
    terminal
}

fn both_from_a_shell(script: &str, test: impl Fn(Terminal)) {
    let directory = tempfile::tempdir().unwrap();
    let inner = command(&directory, &["--no-restart-on-command-exit"], script);
    test(from_a_shell(directory, &inner));
    let directory = tempfile::tempdir().unwrap();
    let inner = watch(&directory, &[], &["sh", "-c", script]);
    let source = directory.path().join("source");
    let mut terminal = from_a_shell(directory, &inner);
    terminal.source = source;
    test(terminal);
}

#[test]
fn ctrl_z_gives_the_terminal_to_the_shell_and_fg_gives_it_back() {
    both_from_a_shell(READER, |mut terminal| {
        terminal.expect("foreground");
        terminal.keys("one\n");
        terminal.expect("got-one");
        terminal.keys("\x1a");
        terminal.expect("Stopped");
        terminal.keys("echo shell-$((1 + 1))\n");
        terminal.expect("shell-2");
        terminal.keys("fg\n");
        terminal.keys("two\n");
        terminal.expect("got-two");
        terminal.keys("\x03");
        terminal.expect("prompt> ");
        terminal.keys("echo code-$?\n");
        terminal.expect("code-130");
        terminal.keys("exit\n");
        terminal.wait();
    });
}

#[test]
fn ctrl_c_after_ctrl_z_and_fg_ends_a_polite_command() {
    both_from_a_shell(QUIET, |mut terminal| {
        terminal.expect("up-2");
        let group = terminal.foreground();
        terminal.keys("\x1a");
        terminal.expect("Stopped");
        terminal.expect("prompt> ");
        assert_ne!(terminal.foreground(), group);
        terminal.keys("fg\n");
        eventually(|| (terminal.foreground() == group).then_some(()));
        terminal.keys("\x03");
        terminal.expect("prompt> ");
        terminal.keys("echo code-$?\n");
        terminal.expect("code-130");
        terminal.keys("exit\n");
        terminal.wait();
    });
}

#[test]
fn after_bg_and_fg_ctrl_c_is_ours_and_the_next_start_has_the_terminal() {
    both_from_a_shell(QUIET, |mut terminal| {
        terminal.expect("up-2");
        let shell = pid_of(&terminal);
        terminal.keys("\x1a");
        terminal.expect("Stopped");
        terminal.expect("prompt> ");
        terminal.keys("bg\n");
        terminal.expect("prompt> ");
        terminal.keys("fg\n");
        let front = |terminal: &Terminal| {
            let front = terminal.foreground().unwrap().as_raw_nonzero().get();
            (front != shell).then_some(front)
        };
        let job = eventually(|| front(&terminal));
        terminal.save("a.py");
        terminal.expect("up-2");
        eventually(|| front(&terminal).filter(|front| *front != job));
        terminal.keys("\x03");
        terminal.expect("prompt> ");
        terminal.keys("echo code-$?\n");
        terminal.expect("code-130");
        terminal.keys("exit\n");
        terminal.wait();
    });
}
