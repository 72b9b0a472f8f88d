//! Disks that are full, cannot be written, or are not there.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pullpass_core::reason::Reason;
use pullpass_node_agent::{Delivery as _, Effort, KubeletFile};

use crate::place::{FOREIGN, Place, alone, bundles, directory, entry, reason};

/// A mount that ends with the test.
struct Mount(PathBuf);

impl Mount {
    fn new(path: &Path, arguments: &[&str]) -> Self {
        run("mount", arguments, path);
        Self(path.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["--lazy"], &self.0);
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program)
        .args(arguments)
        .arg(path)
        .status()
        .unwrap();
    assert!(
        status.success(),
        "{program} {arguments:?} {}",
        path.display()
    );
}

/// A kubelet's root directory on a disk of its own, with an administrator's docker config.
fn on_a_disk(options: &str) -> (Place, Mount) {
    let place = Place::new();
    let root = place.path().join("root");
    let mount = Mount::new(&root, &["-t", "tmpfs", "-o", options, "tmpfs"]);
    fs::create_dir(place.root("pods")).unwrap();
    place.write("config.json", FOREIGN);
    (place, mount)
}

/// Takes all the room there is but for so many bytes.
fn fill(place: &Place, but: u64) {
    let mut file = fs::File::create(place.root("pods").join("ballast")).unwrap();
    let chunk = [0; 4096];
    while file.write_all(&chunk).is_ok() {}
    let size = file.metadata().unwrap().len();
    file.set_len(size.saturating_sub(but)).unwrap();
}

#[test]
fn on_a_full_disk_the_file_stays_as_it_was_until_there_is_room() {
    // from no room at all to room for everything, page by page
    let mut delivered = 0;
    for pages in 0..8 {
        let (place, _mount) = on_a_disk("size=256k");
        fill(&place, pages * 4096);
        match place.deliver("p") {
            Ok(_) => delivered += 1,
            Err(trouble) => {
                assert_eq!(trouble.reason, Reason::NodeWriteFailed);
                assert!(trouble.passes);
                assert_eq!(
                    fs::read_to_string(place.root("config.json")).unwrap(),
                    FOREIGN
                );
            }
        }
        fs::remove_file(place.root("pods").join("ballast")).unwrap();
        place.deliver("p").unwrap();
        place.assert_delivered("p");
    }
    assert!((1..8).contains(&delivered), "{delivered} of 8");
}

#[test]
fn a_rotation_on_a_full_disk_keeps_the_old_login() {
    let (place, _mount) = on_a_disk("size=256k");
    place.deliver("old").unwrap();
    fill(&place, 0);
    assert_eq!(reason(place.deliver("new")), Reason::NodeWriteFailed);
    assert_eq!(place.auths()["ours.example.com"], entry("old"));
    // what has to go can go all the same, once there is a little room
    fs::remove_file(place.root("pods").join("ballast")).unwrap();
    place.withdraw().unwrap();
    assert_eq!(
        fs::read_to_string(place.root("config.json")).unwrap(),
        FOREIGN
    );
}

#[test]
fn without_inodes_the_file_stays_as_it_was() {
    let (place, _mount) = on_a_disk("size=1m,nr_inodes=8");
    let mut taken = 0;
    while fs::write(place.root("pods").join(format!("file-{taken}")), "").is_ok() {
        taken += 1;
    }
    assert_eq!(reason(place.deliver("p")), Reason::NodeWriteFailed);
    assert_eq!(
        fs::read_to_string(place.root("config.json")).unwrap(),
        FOREIGN
    );
    assert_eq!(place.names(), ["config.json"]);
    for file in 0..taken {
        fs::remove_file(place.root("pods").join(format!("file-{file}"))).unwrap();
    }
    place.deliver("p").unwrap();
    place.assert_delivered("p");
}

#[test]
fn a_read_only_directory_is_told_and_not_tried_in_vain() {
    let place = Place::with_foreign();
    let root = place.path().join("root");
    let text = root.to_str().unwrap();
    let _mount = Mount::new(&root, &["--bind", text]);
    run("mount", &["-o", "remount,bind,ro"], &root);
    let trouble = place.deliver("p").unwrap_err();
    assert_eq!(trouble.reason, Reason::NodeReadOnly);
    assert!(!trouble.passes, "{}", trouble.message);
    assert!(trouble.message.contains(text), "{}", trouble.message);
    // there is nothing to take off
    assert!(!place.withdraw().unwrap());
    run("mount", &["-o", "remount,bind,rw"], &root);
    place.deliver("p").unwrap();
    place.assert_delivered("p");
}

#[test]
fn a_file_that_is_a_mount_of_its_own_is_left_alone() {
    let place = Place::with_foreign();
    let file = place.root("config.json");
    let outside = place.outside("file");
    let _mount = Mount::new(&file, &["--bind", outside.to_str().unwrap()]);
    assert_eq!(reason(place.deliver("p")), Reason::NodeWriteFailed);
    assert_eq!(fs::read_to_string(&file).unwrap(), FOREIGN);
    place.assert_outside_untouched();
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let place = Place::new();
    fs::remove_dir_all(place.path().join("root")).unwrap();
    assert_eq!(reason(place.deliver("p")), Reason::NodePathMissing);
    assert!(!place.path().join("root").exists());
}

#[test]
fn a_directory_that_no_kubelet_has_made_is_not_written() {
    let place = Place::new();
    fs::remove_dir(place.root("pods")).unwrap();
    assert_eq!(reason(place.deliver("p")), Reason::NodePathMissing);
    assert!(place.names().is_empty());
}

#[test]
fn a_dot_docker_directory_is_no_root_directory() {
    let place = Place::new();
    let dot_docker = place.path().join(".docker");
    fs::create_dir(&dot_docker).unwrap();
    let file = KubeletFile::new(directory(&dot_docker), Vec::new());
    assert!(
        alone(|| file.deliver(&bundles("p"), Effort::Write))
            .unwrap()
            .changed
    );
    assert!(dot_docker.join("config.json").exists());
    file.withdraw().unwrap();
    assert_eq!(fs::read_dir(&dot_docker).unwrap().count(), 0);
}

#[test]
fn a_docker_config_that_kubelet_uses_is_not_masked() {
    let place = Place::new();
    let masked = place.path().join("outside");
    fs::rename(place.outside("file"), place.outside("config.json")).unwrap();
    let root = directory(&place.path().join("root"));
    let file = KubeletFile::new(root, vec![directory(&masked)]);
    let trouble = alone(|| file.deliver(&bundles("p"), Effort::Write)).unwrap_err();
    assert_eq!(trouble.reason, Reason::NodeFileMasked);
    assert!(place.names().is_empty());
    // where there is one in the root directory already, it is masked anyway
    place.write("config.json", "{}");
    let delivered = alone(|| file.deliver(&bundles("p"), Effort::Write)).unwrap();
    assert_eq!(delivered.remark.unwrap().reason, Reason::NodeFileMasked);
    place.assert_delivered("p");
}

#[test]
fn a_look_changes_nothing() {
    let place = Place::with_foreign();
    let file = place.kubelet_file();
    let trouble = alone(|| file.deliver(&bundles("p"), Effort::Look)).unwrap_err();
    assert_eq!(trouble.reason, Reason::NodeFileContested);
    assert_eq!(place.names(), ["config.json"]);
    place.deliver("p").unwrap();
    assert!(
        !alone(|| file.deliver(&bundles("p"), Effort::Look))
            .unwrap()
            .changed
    );
}
