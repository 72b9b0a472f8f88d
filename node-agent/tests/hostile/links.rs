//! What may lie where a file is expected.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use pullpass_core::reason::Reason;
use pullpass_node_agent::atomic_file;
use pullpass_node_agent::host::{Found, Host as _, RealHost, Rename};
use rstest::rstest;

use crate::place::{FOREIGN, Place, reason};

const CONFIG: &str = "config.json";
const STATE: &str = ".pullpass.json";
const CONFIG_TEMPORARY: &str = ".config.json.pullpass";
const STATE_TEMPORARY: &str = ".pullpass.json.new";

#[rstest]
#[case::to_a_file(CONFIG, "../outside/file")]
#[case::to_nothing(CONFIG, "../outside/new")]
#[case::to_a_directory(CONFIG, "../outside")]
#[case::to_a_neighbour(CONFIG, "pods")]
#[case::to_itself(CONFIG, CONFIG)]
#[case::of_the_state(STATE, "../outside/file")]
fn a_symbolic_link_is_neither_followed_nor_replaced(#[case] name: &str, #[case] target: &str) {
    let place = Place::new();
    symlink(target, place.root(name)).unwrap();
    assert_eq!(reason(place.deliver("p")), Reason::NodeFileUnusable);
    assert_eq!(
        fs::read_link(place.root(name)).unwrap().to_str(),
        Some(target)
    );
    assert_eq!(place.names(), [name]);
    place.assert_outside_untouched();
}

#[rstest]
#[case(CONFIG_TEMPORARY, "../outside/file")]
#[case(CONFIG_TEMPORARY, "../outside/new")]
#[case(STATE_TEMPORARY, "../outside/file")]
#[case(STATE_TEMPORARY, "../outside/new")]
fn a_symbolic_link_in_the_place_of_a_leftover_is_removed(#[case] name: &str, #[case] target: &str) {
    let place = Place::with_foreign();
    symlink(target, place.root(name)).unwrap();
    place.deliver("p").unwrap();
    place.assert_delivered("p");
    place.assert_outside_untouched();
}

#[rstest]
#[case(CONFIG)]
#[case(STATE)]
#[case(CONFIG_TEMPORARY)]
#[case(STATE_TEMPORARY)]
fn a_directory_is_in_the_way(#[case] name: &str) {
    let place = Place::new();
    fs::create_dir(place.root(name)).unwrap();
    assert_eq!(reason(place.deliver("p")), Reason::NodeFileUnusable);
    assert_eq!(place.names(), [name]);
}

fn make_special(place: &Place, name: &str, kind: &str) {
    let path = place.root(name);
    if kind == "socket" {
        drop(UnixListener::bind(&path).unwrap());
        return;
    }
    let mut command = Command::new("mknod");
    command.arg(&path);
    match kind {
        "fifo" => command.arg("p"),
        // that of /dev/null
        "device" => command.args(["c", "1", "3"]),
        other => panic!("{other}"),
    };
    assert!(command.status().unwrap().success());
}

#[rstest]
fn a_fifo_a_socket_and_a_device_are_not_opened(
    #[values(CONFIG, STATE)] name: &str,
    #[values("fifo", "socket", "device")] kind: &str,
) {
    let place = Place::new();
    make_special(&place, name, kind);
    // opening a FIFO would wait for a writer for ever
    assert_eq!(reason(place.deliver("p")), Reason::NodeFileUnusable);
    assert_eq!(place.names(), [name]);
}

#[rstest]
fn a_fifo_in_the_place_of_a_leftover_is_removed(
    #[values(CONFIG_TEMPORARY, STATE_TEMPORARY)] name: &str,
) {
    let place = Place::with_foreign();
    make_special(&place, name, "fifo");
    place.deliver("p").unwrap();
    place.assert_delivered("p");
}

#[test]
fn another_name_of_the_docker_config_keeps_what_it_has() {
    let place = Place::new();
    fs::hard_link(place.outside("file"), place.root(CONFIG)).unwrap();
    let before = fs::metadata(place.outside("file")).unwrap();
    place.deliver("p").unwrap();
    place.assert_delivered("p");
    place.assert_outside_untouched();
    place.withdraw().unwrap();
    place.assert_outside_untouched();
    let after = fs::metadata(place.outside("file")).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
    assert_eq!(fs::read_to_string(place.root(CONFIG)).unwrap(), FOREIGN);
}

#[rstest]
#[case(CONFIG_TEMPORARY)]
#[case(STATE_TEMPORARY)]
fn another_name_of_a_leftover_keeps_what_it_has(#[case] name: &str) {
    let place = Place::new();
    fs::hard_link(place.outside("file"), place.root(name)).unwrap();
    place.deliver("p").unwrap();
    place.assert_delivered("p");
    place.assert_outside_untouched();
}

#[test]
fn another_name_of_the_state_file_keeps_what_it_has() {
    let place = Place::new();
    place.deliver("old").unwrap();
    let copy = place.path().join("state");
    fs::hard_link(place.root(STATE), &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    place.deliver("new").unwrap();
    place.assert_delivered("new");
    assert_eq!(fs::read(&copy).unwrap(), before);
    assert_ne!(fs::read(place.root(STATE)).unwrap(), before);
}

#[test]
fn the_directory_itself_may_be_no_symbolic_link() {
    let place = Place::new();
    fs::rename(place.path().join("root"), place.path().join("moved")).unwrap();
    symlink("moved", place.path().join("root")).unwrap();
    let trouble = place.deliver("p").unwrap_err();
    assert!(!trouble.message.is_empty());
    let names: Vec<_> = fs::read_dir(place.path().join("moved")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn no_step_follows_a_symbolic_link_above() {
    let place = Place::new();
    symlink("../outside", place.root("sub")).unwrap();
    let host = RealHost::open(&place.path().join("root")).unwrap();
    assert!(host.read("sub/file", 1000).is_err());
    assert!(host.list("sub").is_err());
    assert!(host.create("sub/new", 0o600).is_err());
    assert!(host.rename("sub/file", "file", Rename::Replace).is_err());
    assert!(host.create("mine", 0o600).is_ok());
    assert!(host.rename("mine", "sub/mine", Rename::Keep).is_err());
    assert!(host.rename("mine", "sub/file", Rename::Exchange).is_err());
    assert!(host.remove("sub/file").is_err());
    assert!(host.create_directory("sub/new", 0o700).is_err());
    assert!(host.remove_directory("sub/new").is_err());
    assert!(host.sync_directory("sub").is_err());
    assert!(atomic_file::replace(&host, "sub/file", "sub/new", b"x", 0o600).is_err());
    place.assert_outside_untouched();
}

#[rstest]
#[case("../outside/file")]
#[case("/etc/hostname")]
#[case("pods/../../outside/file")]
#[case(".")]
#[case("")]
fn no_step_leaves_the_directory_by_its_path(#[case] path: &str) {
    let place = Place::new();
    let host = RealHost::open(&place.path().join("root")).unwrap();
    let invalid = |error: io::Error| error.kind() == io::ErrorKind::InvalidInput;
    assert!(invalid(host.read(path, 1000).unwrap_err()));
    assert!(invalid(host.create(path, 0o600).unwrap_err()));
    assert!(invalid(host.remove(path).unwrap_err()));
    assert!(invalid(
        host.rename("pods", path, Rename::Replace).unwrap_err()
    ));
    assert!(invalid(host.create_directory(path, 0o700).unwrap_err()));
    place.assert_outside_untouched();
}

#[test]
fn a_file_of_another_owner_is_left_alone() {
    let place = Place::with_foreign();
    std::os::unix::fs::chown(place.root(CONFIG), Some(12345), Some(12345)).unwrap();
    assert_eq!(reason(place.deliver("p")), Reason::NodeFileUnusable);
    assert_eq!(fs::metadata(place.root(CONFIG)).unwrap().uid(), 12345);
    assert_eq!(fs::read_to_string(place.root(CONFIG)).unwrap(), FOREIGN);
}

#[test]
fn a_file_without_end_is_not_read() {
    let place = Place::new();
    let file = fs::File::create(place.root(CONFIG)).unwrap();
    // without holes it would fill any memory
    file.set_len(1 << 40).unwrap();
    assert_eq!(reason(place.deliver("p")), Reason::NodeFileUnusable);
    let host = RealHost::open(&place.path().join("root")).unwrap();
    assert!(matches!(host.read(CONFIG, 1000).unwrap(), Found::TooLarge));
}

#[rstest]
#[case("")]
#[case("{\"auths\":")]
#[case("not JSON")]
fn a_file_that_is_no_docker_config_is_left_alone(#[case] text: &str) {
    let place = Place::new();
    place.write(CONFIG, text);
    assert_eq!(reason(place.deliver("p")), Reason::NodeFileUnusable);
    assert_eq!(fs::read_to_string(place.root(CONFIG)).unwrap(), text);
    assert_eq!(place.names(), [CONFIG]);
}

#[test]
fn permissions_are_narrowed_and_given_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::with_foreign();
    fs::set_permissions(place.root(CONFIG), fs::Permissions::from_mode(0o644)).unwrap();
    place.deliver("p").unwrap();
    place.assert_delivered("p");
    let state = fs::metadata(place.root(STATE)).unwrap();
    assert_eq!(state.mode() & 0o7777, 0o600);
    place.withdraw().unwrap();
    let after = fs::metadata(place.root(CONFIG)).unwrap();
    assert_eq!(after.mode() & 0o7777, 0o644);
    assert_eq!(fs::read_to_string(place.root(CONFIG)).unwrap(), FOREIGN);
    assert_eq!(place.names(), [CONFIG]);
}
