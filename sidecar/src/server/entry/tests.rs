//! Who has a place in a container, and who gets it.

use std::path::Path;

use super::super::replay::tests::{request, site};
use super::super::store::Store;
use super::super::target::Identity;
use super::super::wrap::{FromWrappers, Wrapper};
use super::super::{CONTENTS_BYTES, Settings, replay};
use super::*;
use crate::restart::{ActionSet, Policy};
use crate::wire::CommandSpec;

const ANN: u8 = 1;
const BOB: u8 = 2;

fn settings(state: &Path) -> Settings {
    Settings {
        state: state.to_owned(),
        once: false,
        idle: None,
        container: None,
        own: false,
        wrappers: None,
        contents_bytes: CONTENTS_BYTES,
    }
}

fn hub(state: &Path) -> Hub {
    Hub::new(settings(state), tokio::sync::mpsc::channel(1).1)
}

/// A site as an opening leaves it; its record lies in the folder `name`.
fn opened(state: &Path, name: &str, open: &Request) -> Site {
    let top = state.join("tops").join(name);
    std::fs::create_dir_all(&top).unwrap();
    let folder = state.join("hubs").join(name);
    let (store, _) = Store::open(&folder).unwrap();
    let mut site = site(&top, &folder, &[]);
    site.store = Some(store);
    site.stand(open, None).unwrap();
    site
}

fn standing(state: &Path) -> Vec<Request> {
    replay::standing(state)
}

fn typed(who: u8, roots: &[&str]) -> Request {
    let Request { open, container } = request(who, roots);
    Request::new(open, container)
}

#[test]
fn a_place_has_one_name_however_it_is_typed() {
    let one = typed(ANN, &["/srv/app"]);
    for other in ["/srv/app/", "//srv/./app", "/srv//app//"] {
        assert!(same_site(&one, &typed(ANN, &[other])), "{other}");
    }
    assert!(!same_site(&one, &typed(ANN, &["/srv/app/src"])));
}

#[test]
fn i14_who_said_good_bye_holds_no_place_and_nor_does_nobody() {
    let home = tempfile::tempdir().unwrap();
    let (mut hub, now) = (hub(home.path()), Instant::now());
    let (ann, bob) = (request(ANN, &["/srv/app"]), request(BOB, &["/srv/app"]));
    hub.admit(Some(7), ann.clone(), opened(home.path(), "a", &ann), now);
    let held = hub.make_room(&bob, now).unwrap_err();
    assert_eq!(held, Refusal::Owned { by: "writer-1".to_owned(), active: true });
    hub.bye(7, 0);
    assert_eq!(hub.sites.len(), 1, "it is gone on with");
    hub.make_room(&bob, now).unwrap();
    assert!(hub.sites.is_empty());
    // The hub itself goes on with it after a start of the container.
    hub.admit(None, ann.clone(), opened(home.path(), "a", &ann), now);
    hub.make_room(&bob, now).unwrap();
    assert!(hub.sites.is_empty());
    // One whose link was cut may come back.
    hub.admit(Some(8), ann.clone(), opened(home.path(), "a", &ann), now);
    hub.unlink(8);
    assert!(hub.make_room(&bob, now).is_err());
    assert!(hub.make_room(&bob, now + crate::lease::LEASE).is_ok());
}

#[test]
fn a_place_that_was_left_gives_way_to_one_above_or_below() {
    let home = tempfile::tempdir().unwrap();
    let (mut hub, now) = (hub(home.path()), Instant::now());
    let [below, beside] = ["/srv/app/src", "/srv/lib"].map(|root| request(ANN, &[root]));
    for (id, name, open) in [(7, "below", &below), (8, "beside", &beside)] {
        hub.admit(Some(id), open.clone(), opened(home.path(), name, open), now);
    }
    let above = request(ANN, &["/srv/app"]);
    hub.make_room(&above, now).unwrap();
    assert_eq!(hub.sites.len(), 2, "somebody is there");
    hub.unlink(7);
    hub.make_room(&request(BOB, &["/srv"]), now).unwrap();
    assert_eq!(hub.sites.len(), 2, "its lease holds");
    hub.make_room(&above, now).unwrap();
    assert_eq!(hub.sites.len(), 1);
    assert_eq!(hub.sites[0].open, beside);
    assert_eq!(standing(home.path()), [beside.lasting()], "nor is it written again");
    assert!(!home.path().join("hubs/below/contents").exists());
}

#[tokio::test(flavor = "current_thread")]
async fn i14_a_directory_with_two_names_has_one_writer() {
    let home = tempfile::tempdir().unwrap();
    let [real, link] = ["real", "link"].map(|name| home.path().join(name));
    std::fs::create_dir_all(real.join("below")).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let (mut hub, now) = (hub(home.path()), Instant::now());
    let at = |path: &Path| request(ANN, &[path.to_str().unwrap()]);
    let mut site = opened(home.path(), "a", &at(&real));
    site.process = Process::pin(std::process::id().cast_signed()).ok();
    hub.admit(None, at(&real), site, now);
    assert_eq!(name_in(hub.sites[0].site.process.as_ref(), &link), real.canonicalize().unwrap());
    hub.make_room(&at(&link.join("below")), now).unwrap();
    assert!(hub.sites.is_empty());
}

#[test]
fn of_notes_that_overlap_the_newest_counts() {
    let home = tempfile::tempdir().unwrap();
    let roots = [&["/a", "/b"][..], &["/a"], &["/c"], &["/c/below"], &["/d"]];
    let requests = roots.map(|roots| request(ANN, roots));
    let begin = std::time::SystemTime::UNIX_EPOCH;
    for (n, open) in requests.iter().enumerate() {
        opened(home.path(), &n.to_string(), open).close();
        let note = home.path().join(format!("hubs/{n}/standing"));
        let note = std::fs::File::options().write(true).open(note).unwrap();
        note.set_modified(begin + Duration::from_secs(n as u64)).unwrap();
    }
    let newest = [&requests[4], &requests[3], &requests[1]].map(Request::lasting);
    assert_eq!(standing(home.path()), newest);
    assert_eq!(standing(home.path()), newest, "the others are forgotten");
    // Who comes first after a start of the hub counts, too.
    replay::stand_alone(home.path(), &request(BOB, &["/c"]));
    assert_eq!(standing(home.path()).len(), 2);
}

#[test]
fn what_somebody_else_had_meanwhile_is_not_written_again() {
    let home = tempfile::tempdir().unwrap();
    let open = request(ANN, &["/srv/app"]);
    let folder = home.path().join("hubs/a");
    let lost = |start: &str| {
        let top = home.path().join("tops/a");
        let (store, loaded) = Store::open(&folder).unwrap();
        let mut site = site(&top, &folder, &[]);
        site.inside = Some(replay::tests::started(start));
        site.store = Some(store);
        let lost = site.lost(&folder, &loaded, true, &settings(home.path())).unwrap();
        site.stand(&open, lost.clone()).unwrap();
        lost.is_some()
    };
    opened(home.path(), "a", &open).close();
    assert!(!lost("1"), "its first start");
    assert!(lost("2"));
    assert!(!lost("2"));
    replay::stand_alone(home.path(), &request(BOB, &["/srv"]));
    assert!(!lost("3"));
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_refused_to_nobody_is_tried_again() {
    let home = tempfile::tempdir().unwrap();
    let mut hub = hub(home.path());
    hub.stand_by(request(ANN, &[]));
    let now = Instant::now();
    hub.try_waiting(now).await;
    assert_eq!(hub.waiting.len(), 1);
    assert!(hub.waiting[0].told && hub.waiting[0].again >= now + REFUSED_STEP);
}

#[test]
fn i9_a_command_waits_for_all_places_of_its_container() {
    let home = tempfile::tempdir().unwrap();
    let (mut hub, now) = (hub(home.path()), Instant::now());
    let places = ["/a", "/b"].map(|root| request(ANN, &[root]));
    for (id, (name, open)) in (7..).zip(["a", "b"].iter().zip(&places)) {
        hub.admit(Some(id), open.clone(), opened(home.path(), name, open), now);
    }
    let [pod, name, start] = ["pod", "app", "1"].map(str::to_owned);
    let (wrapper, mut told) = Wrapper::of(Identity { pod, name, start, id: None });
    hub.wrapper_event(FromWrappers::Linked(wrapper));
    let spec = CommandSpec { argv: Vec::new(), policy: Policy::default(), inherit: false };
    hub.run_wrapped(7, 0, &spec);
    assert!(told.try_recv().is_err(), "half of it is there");
    hub.act_wrapped(1, 0, &ActionSet::default());
    assert!(told.try_recv().is_ok());
    hub.act_wrapped(0, 0, &ActionSet::default());
    assert!(told.try_recv().is_err(), "once");
}
