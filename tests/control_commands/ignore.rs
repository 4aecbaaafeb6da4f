//! `check-ignore` beside git's own.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::place::{Place, Said};

fn repository() -> Place {
    let place = Place::new();
    let status = Command::new("git").args(["init", "-q"]).current_dir(&place.folder).status();
    assert!(status.unwrap().success());
    let at = |path: &str| place.folder.join(path);
    fs::create_dir_all(at("build/x")).unwrap();
    fs::create_dir_all(at("sub")).unwrap();
    fs::write(at(".gitignore"), "*.o\nbuild/\n!keep.o\n").unwrap();
    fs::write(at("sub/.gitignore"), "local\n").unwrap();
    place
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn git(place: &Place, words: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(["check-ignore", "--no-index"]).args(words).current_dir(&place.folder);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("HOME", "/nonexistent").env("GIT_CONFIG_NOSYSTEM", "1");
    command
}

#[test]
fn its_words_and_codes_are_gits() {
    let place = repository();
    let asked: [&[&str]; 10] = [
        &["a.o", "b.c", "build/x/y", "keep.o", "sub/local", "sub/other"],
        &["-v", "a.o", "b.c", "build/x/y", "keep.o", "sub/local"],
        &["b.c"],
        &["-v", "b.c"],
        &["-v", "keep.o"],
        &["naïve.o", "t\tab.o"],
        &["-v", "-n", "a.o", "b.c", "build/x/y", "keep.o"],
        &["--verbose", "--non-matching", "b.c"],
        &["-q", "a.o"],
        &["--quiet", "b.c"],
    ];
    for words in asked {
        let theirs = git(&place, words).output().unwrap();
        let ours = place.run(&[&["check-ignore"], words].concat());
        assert_eq!(ours.out, String::from_utf8(theirs.stdout).unwrap(), "{words:?}");
        assert_eq!((ours.code, &*ours.err), (theirs.status.code(), ""), "{words:?}");
    }
}

#[test]
fn paths_are_read_from_stdin() {
    let place = repository();
    for (words, input) in [
        (&["--stdin"][..], "a.o\nb.c\nbuild\n"),
        (&["-v", "--stdin"], "a.o\nb.c\n"),
        (&["-z", "--stdin"], "a.o\0t\tab.o\0b.c\0"),
        (&["-z", "-v", "--stdin"], "a.o\0b.c\0"),
        (&["--stdin"], ""),
        (&["-n", "-v", "--stdin"], "a.o\nb.c\nkeep.o\n"),
        (&["-z", "-v", "--non-matching", "--stdin"], "a.o\0b.c\0t\tab\0"),
    ] {
        let theirs = with_input(git(&place, words), input.as_bytes());
        let ours = place.command(&[&["check-ignore"], words].concat());
        let ours = with_input(ours, input.as_bytes());
        assert_eq!(ours.stdout, theirs.stdout, "{words:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{words:?}");
    }
}

/// What is asked in vain: nothing on standard output, git's exit code, and a word why.
#[test]
fn what_cannot_be_asked_ends_as_with_git() {
    let place = repository();
    std::os::unix::fs::symlink("sub", place.folder.join("link")).unwrap();
    for words in [
        &[][..],
        &["--stdin", "a.o"],
        &["-z", "a.o"],
        &["-z"],
        &["-n", "a.o"],
        &["--non-matching", "-q", "a.o"],
        &["-q", "a.o", "b.c"],
        &["-q", "-v", "a.o"],
        &["--quiet", "--verbose", "-n", "a.o"],
        &["-q"],
        &["/etc/passwd"],
        &["a.o", "../outside"],
        &["a.o", ""],
        &["link/x"],
        &["--bogus", "a.o"],
        &["-vx"],
        &["--stdin=yes"],
    ] {
        let theirs = git(&place, words).output().unwrap();
        let ours = place.run(&[&["check-ignore", "--no-index"], words].concat());
        assert_eq!(ours.out, String::from_utf8(theirs.stdout).unwrap(), "{words:?}");
        assert_eq!(ours.code, theirs.status.code(), "{words:?} {}", ours.err);
        assert!(ours.code >= Some(128) && ours.err.starts_with("[e2ek] error "), "{words:?}");
    }
    // A line that cannot be asked about ends it there; what came before is answered.
    for (words, input) in [
        (&["--stdin"][..], "a.o\n../outside\nb.o\n"),
        (&["-v", "-n", "--stdin"], "a.o\nb.c\n\"x\n"),
        (&["-z", "-n", "-v", "--stdin"], "a.o\0link/x\0b.o\0"),
        (&["-q", "--stdin"], "b.c\na.o\n"),
        (&["-q", "-z", "--stdin"], "b.c\0"),
        (&["-q", "--stdin"], "a.o\n\n"),
    ] {
        let theirs = with_input(git(&place, words), input.as_bytes());
        let ours = with_input(
            place.command(&[&["check-ignore", "--no-index"], words].concat()),
            input.as_bytes(),
        );
        assert_eq!(ours.stdout, theirs.stdout, "{words:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{words:?} {ours:?}");
    }
}

#[test]
fn ours_count_too() {
    let place = repository();
    fs::write(place.folder.join("e2ek.toml"), "[workspace]\nexclude = [\"*.big\"]\n").unwrap();
    let said = place.run(&["check-ignore", "-v", "x.big", ".env"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("--exclude:1:*.big\tx.big\n"), "{said:?}");
    assert!(said.out.ends_with("\t.env\n"), "{said:?}");
    let said = place.run(&["check-ignore", "-q", "x.big"]);
    assert_eq!((said.code, &*said.out), (Some(0), ""));
    let outside = place.run(&["check-ignore", "/etc/passwd"]);
    assert_eq!((outside.code, &*outside.out), (Some(128), ""), "{outside:?}");
    assert!(outside.err.contains("/etc/passwd is outside of"), "{outside:?}");
}

#[test]
fn it_stands_where_it_is_sent() {
    let place = repository();
    let there = place.command(&["-C", place.folder.join("sub").to_str().unwrap()]);
    let said = { there }.args(["check-ignore", "-v", "local"]).current_dir("/").output();
    let said = Said::of(said.unwrap());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.ends_with(".gitignore:1:local\tlocal\n"), "{said:?}");
}
