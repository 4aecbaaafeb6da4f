//! Rows 1 to 4: what restarts, and what does not.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::run::{supervise, supervise_in};

/// Says when it starts, then lives.
const APP: &str = "echo start; exec sleep 1000";

#[test]
fn starts_at_once_and_a_stop_ends_it_before_it_finishes() {
    let mut app = supervise(&[], "echo start; sleep 1000; echo finished");
    app.expect("start");
    assert_eq!(app.stop(), (Some(143), vec![]));
}

#[test]
fn stopping_twice_is_harmless() {
    let mut app = supervise(&[], APP);
    app.expect("start");
    app.signal(Signal::TERM);
    app.signal(Signal::TERM);
    assert_eq!(app.wait().code(), Some(143));
    assert_eq!(app.rest(), [""; 0]);
}

#[test]
fn i9_each_event_is_one_restart_without_debounce() {
    let mut app = supervise(&[], APP);
    app.expect("start");
    for name in ["a.py", "b.py", "a.py"] {
        app.save(name);
        app.expect("start");
    }
    app.silent_for(Duration::from_millis(300));
    assert_eq!(app.stop().1, [""; 0]);
}

/// Truncated and written, as most editors do.
#[test]
fn i9_a_file_that_is_written_where_it_stands_is_one_restart() {
    let app = supervise(&[], APP);
    app.expect("start");
    for _ in 0..3 {
        let begin = Instant::now();
        fs::write(app.path("a.py"), "a").unwrap();
        let took = begin.elapsed();
        app.expect("start");
        let more = app.lines_for(Duration::from_millis(300));
        // Held up in the midst of it, it looks like a file that stays open.
        assert!(more == 0 || took > Duration::from_millis(25), "{more} more, saved in {took:?}");
    }
}

#[test]
fn opening_and_reading_never_restart() {
    let app = supervise_in(
        {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("a.py"), "x").unwrap();
            directory
        },
        &[],
        APP,
    );
    app.expect("start");
    for _ in 0..5 {
        assert_eq!(fs::read(app.path("a.py")).unwrap(), b"x");
        fs::read_dir(app.directory.path()).unwrap().for_each(drop);
        let reading = File::options().read(true).open(app.path("a.py")).unwrap();
        drop(reading);
    }
    app.silent_for(Duration::from_millis(300));
    app.save("a.py");
    app.expect("start");
    app.silent_for(Duration::from_millis(300));
}

#[test]
fn patterns_and_directories_are_honoured() {
    let app = supervise(&["-p", "*.py;*.html", "-i", "test_*;*/skip/*", "-R", "-D"], APP);
    app.expect("start");
    app.save("a.txt");
    app.save("test_a.py");
    fs::create_dir_all(app.path("x.py/skip")).unwrap();
    app.save("x.py/skip/a.py");
    app.silent_for(Duration::from_millis(300));
    app.save("x.py/index.html");
    app.expect("start");
    app.silent_for(Duration::from_millis(300));
}

#[test]
fn directories_below_are_watched_only_when_recursive() {
    let flat = supervise(&[], APP);
    flat.expect("start");
    fs::create_dir(flat.path("below")).unwrap();
    flat.save("below/a.py");
    flat.silent_for(Duration::from_millis(300));

    let deep = supervise(&["-R"], APP);
    deep.expect("start");
    // Filled before its watch can exist.
    fs::create_dir_all(deep.path("new/deeper")).unwrap();
    deep.save("new/deeper/a.py");
    deep.expect("start");
    deep.save("new/deeper/a.py");
    deep.expect("start");
}

#[test]
fn a_file_moved_into_place_or_removed_restarts() {
    let app = supervise(&[], APP);
    app.expect("start");
    app.save("a.tmp");
    fs::rename(app.path("a.tmp"), app.path("a.py")).unwrap();
    app.expect("start");
    fs::remove_file(app.path("a.py")).unwrap();
    app.expect("start");
}

#[test]
fn a_watched_directory_that_comes_back_is_watched_again() {
    let app = supervise(&["-R"], APP);
    app.expect("start");
    let aside = app.directory.path().with_extension("aside");
    fs::rename(app.directory.path(), &aside).unwrap();
    fs::write(aside.join("a.py"), "elsewhere").unwrap();
    app.silent_for(Duration::from_millis(300));
    fs::rename(&aside, app.directory.path()).unwrap();
    app.expect("start");
    app.save("a.py");
    app.expect("start");
}

#[test]
fn debounce_a_burst_then_one_more_is_two_restarts() {
    let mut app = supervise(&["--debounce", "2"], APP);
    app.expect("start");
    let mut tries = 0;
    let begin = loop {
        let begin = Instant::now();
        let mut starts = 0;
        for name in ["a.py", "b.py", "c.py"] {
            app.save(name);
            // Every new event resets the timer, so that this pause alone would let none through.
            starts += app.lines_for(Duration::from_millis(800));
        }
        if starts == 0 {
            break begin;
        }
        // Who is held up, we or the supervisor, sees longer pauses.
        tries += 1;
        assert!(tries < 5, "{starts} restarts in the midst of a burst of {:?}", begin.elapsed());
        while app.lines_for(Duration::from_secs(3)) > 0 {}
    };
    app.expect("start");
    assert!(begin.elapsed() >= Duration::from_millis(3500), "{:?}", begin.elapsed());
    app.save("a.py");
    app.expect("start");
    assert_eq!(app.stop().1, [""; 0]);
}

#[test]
fn the_pending_restart_is_dropped_on_stop() {
    let mut app = supervise(
        &["--debounce", "1", "--kill-after", "2"],
        "
        trap '' INT
        echo start
        while :; do sleep 1000; done",
    );
    app.expect("start");
    app.save("a.py");
    // It lives for two seconds more, in which the restart would have come.
    assert_eq!(app.stop().1, [""; 0]);
}

#[test]
fn an_exit_restarts_by_default() {
    let app = supervise(&[], "echo start; exit 0");
    app.expect("start");
    app.expect("start");
    app.expect("start");
}

#[test]
fn an_exited_command_may_be_left_dead_until_the_next_event() {
    let app = supervise(&["--no-restart-on-command-exit"], "echo start; exit 3");
    app.expect("start");
    app.silent_for(Duration::from_millis(300));
    app.save("a.py");
    app.expect("start");
    app.silent_for(Duration::from_millis(300));
}

#[test]
fn a_crash_loop_slows_down_and_a_save_cuts_it_short() {
    let begin = Instant::now();
    let app = supervise(&[], "echo start; exit 1");
    for _ in 0..8 {
        app.expect("start");
    }
    // 0 + 100 + 200 + 400 + 800 + 1600 + 3200 ms
    assert!(begin.elapsed() >= Duration::from_millis(6300), "{:?}", begin.elapsed());
    // The next one would come 6400 ms after the last: nobody is held up for so long.
    let begin = Instant::now();
    app.save("a.py");
    app.expect("start");
    assert!(begin.elapsed() < Duration::from_millis(6000), "{:?}", begin.elapsed());
}

#[test]
fn i9_what_comes_while_it_stops_becomes_one_restart() {
    let app = supervise(
        &["--kill-after", "1000"],
        "
        test -e gate || mkfifo gate
        trap 'echo stopping; read word < gate; exit 0' INT
        echo start
        while :; do sleep 0.01; done",
    );
    app.expect("start");
    app.save("a.py");
    app.expect("stopping");
    for name in ["a.py", "b.py", "c.py", "a.py"] {
        app.save(name);
    }
    app.silent_for(Duration::from_millis(300));
    fs::write(app.path("gate"), "go\n").unwrap();
    app.expect("start");
    app.silent_for(Duration::from_millis(300));
    app.save("a.py");
    app.expect("stopping");
    fs::write(app.path("gate"), "go\n").unwrap();
    app.expect("start");
    // So that it can end.
    app.signal(Signal::TERM);
    app.expect("stopping");
    fs::write(app.path("gate"), "go\n").unwrap();
}
