//! Images and keys that are close to each other, from a fixed seed.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// An image, and a docker config's keys as somebody might write them.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) image: String,
    pub(crate) keys: Vec<String>,
}

/// The same cases on every machine and in every run.
pub(crate) fn cases(count: usize) -> Vec<Case> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = any_case();
    (0..count)
        .map(|_| {
            strategy
                .new_tree(&mut runner)
                .expect("every strategy yields a value")
                .current()
        })
        .collect()
}

const HOSTS: &[&str] = &[
    "r.example.com",
    "r.example.com",
    "s.example.com",
    "a.r.example.com",
    "example.com",
    "r.example.com.evil.example",
    "docker.io",
    "docker.io",
    "index.docker.io",
    "registry-1.docker.io",
    "docker.io.evil.example",
    "quay.io",
    "registry",
    "localhost",
    "Registry",
    "R.Example.com",
    "a__b.c",
    "a_b.c",
    "10.0.0.1",
    "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
];

const ADDRESSES: &[&str] = &[
    "[::1]",
    "[::1]",
    "[2001:db8::1]",
    "[2001:DB8::1]",
    "[1:2:3:4:5:6:7:8]",
    "[1:2:3:4:5:6:7::]",
    "[::]",
];

const BROKEN_HOSTS: &[&str] = &[
    "",
    "[]",
    "[:]",
    "[::1::1]",
    "[::ffff:10.0.0.1]",
    "[1:2:3]",
    "r-.example.com",
    "-r.example.com",
    "r..example.com",
    ".r.example.com",
    "r.example.com.",
];

const PORTS: &[&str] = &[
    "", "", "", "", ":5000", ":5000", ":5001", ":05000", ":443", ":0", ":65536",
];

const PATHS: &[&str] = &[
    "app",
    "team",
    "team/app",
    "team/app",
    "team/app/deep",
    "team-evil/app",
    "teams/app",
    "tea/app",
    "library/nginx",
    "nginx",
    "v1/app",
    "v2/app",
    "v1/team/app",
    "v2/v1/team",
    "v2",
    "a__b/app",
    "a--b",
    "a.b_c/app",
];

const BROKEN_PATHS: &[&str] = &[
    "",
    "a___b",
    "a.-b",
    "a..b",
    "-a",
    "a-",
    "App",
    "TEAM/app",
    "team//app",
    "team/",
    "/team",
    "caf\u{e9}",
    "a b",
    "a%62",
];

const SUFFIXES: &[&str] = &["", "", ":v1", ":Latest_1.0-x", ":_x"];

const BROKEN_SUFFIXES: &[&str] = &[
    ":",
    ":.x",
    ":-x",
    ":a b",
    "@",
    "@sha256:",
    "@sha256:0123",
    ":v1:v2",
];

const SCHEMES: &[&str] = &["", "", "https://", "http://"];

const BROKEN_SCHEMES: &[&str] = &["HTTPS://", "ftp://", "//", "https:", "https:/"];

const KEY_PATHS: &[&str] = &[
    "",
    "",
    "",
    "/",
    "/v1/",
    "/v2/",
    "/v1",
    "/v2",
    "/v1/team",
    "/v2/team",
    "/v2/v1/team",
    "/v1/v1/",
    "/v3/",
    "/team",
    "/team",
    "/team/",
    "/tea",
    "/team/app",
    "/team/app/",
    "/team-evil",
    "/library",
    "/library/nginx",
    "/nginx",
    "//",
    "//team",
    "/Team",
    "/te*m",
];

const BROKEN_KEY_PATHS: &[&str] = &[
    "/team?", "/team#", "/te%61m", "/a b", "/team\\", "?team", "#team",
];

const WILDCARDS: &[&str] = &[
    "*",
    "*.*",
    "*.io",
    "docker.*",
    "**.example.com",
    "r?.example.com",
    "r[a-z].example.com",
];

/// Characters that some parser reads otherwise than the next one.
const ODD: &[&str] = &[
    "/", ":", "@", ".", "*", "?", "#", "%", "[", "]", "\\", "-", "_", " ", "\t", "\n", "\0",
    "\u{7f}", "%25", "\u{e9}", "\u{212a}", "A", "0", "//", "..",
];

fn text(of: &'static [&'static str]) -> BoxedStrategy<String> {
    select(of).prop_map(str::to_owned).boxed()
}

/// Mostly of the first kind, now and then of the second.
fn mostly(good: &'static [&'static str], broken: &'static [&'static str]) -> BoxedStrategy<String> {
    prop_oneof![14 => text(good), 1 => text(broken)].boxed()
}

fn any_host() -> impl Strategy<Value = String> {
    prop_oneof![
        24 => mostly(HOSTS, BROKEN_HOSTS),
        6 => text(ADDRESSES),
        3 => "[a-cA-C_-]{1,3}(\\.[a-c0-9-]{1,3}){0,3}",
        1 => "\\[[0-9a-f:]{2,12}\\]",
    ]
}

fn any_port() -> impl Strategy<Value = String> {
    mostly(PORTS, &[":", ":5000:5000", ":http", ":*", "5000"])
}

/// Hexadecimal digits around the lengths that mean something.
fn digits() -> impl Strategy<Value = String> {
    let lengths = select(&[31usize, 32, 63, 64, 65, 96, 128][..]);
    (lengths, select(&["0", "f", "F", "g"][..])).prop_map(|(length, last)| {
        format!("{}{last}", "a1".repeat(length)[..length - 1].to_owned())
    })
}

fn any_suffix() -> impl Strategy<Value = String> {
    let algorithms = select(&["sha256", "sha384", "sha512", "SHA256", "md5", "sha256+b64"][..]);
    let digest = (algorithms, digits())
        .prop_map(|(algorithm, digits)| format!("@{algorithm}:{digits}"))
        .boxed();
    prop_oneof![
        14 => mostly(SUFFIXES, BROKEN_SUFFIXES),
        1 => digest.clone(),
        1 => digest.prop_map(|digest| format!(":v1{digest}")),
        1 => (126usize..131).prop_map(|length| format!(":{}", "t".repeat(length))),
    ]
}

fn any_path() -> impl Strategy<Value = String> {
    prop_oneof![
        24 => mostly(PATHS, BROKEN_PATHS),
        3 => "[a-c0-9._-]{1,5}(/[a-c0-9._-]{1,5}){0,2}",
        1 => (245usize..258).prop_map(|length| "p".repeat(length)),
    ]
}

/// One odd text put in somewhere.
fn disturbed(whole: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (whole, any::<prop::sample::Index>(), select(ODD)).prop_map(|(mut whole, at, odd)| {
        let places: Vec<_> = whole
            .char_indices()
            .map(|(place, _)| place)
            .chain([whole.len()])
            .collect();
        whole.insert_str(*at.get(&places), odd);
        whole
    })
}

/// A host, and a port or nothing.
type Place = (String, String);

fn any_image(places: &[Place]) -> impl Strategy<Value = String> + use<> {
    let composed = (select(places.to_vec()), any_path(), any_suffix())
        .prop_map(|((host, port), path, suffix)| format!("{host}{port}/{path}{suffix}"))
        .boxed();
    let short = (any_path(), any_suffix()).prop_map(|(path, suffix)| format!("{path}{suffix}"));
    prop_oneof![
        16 => composed.clone(),
        4 => short,
        2 => disturbed(composed),
        1 => digits(),
        1 => "[ -~]{0,16}",
        1 => any::<String>(),
    ]
}

/// Some labels of a host with a wildcard.
fn globbed(host: &str, choice: u16) -> String {
    let label = |(index, label): (usize, &str)| match (choice >> (index * 3)) & 7 {
        1 => "*".to_owned(),
        2 => format!("{}*", label.get(..1).unwrap_or_default()),
        3 => format!("*{}", label.get(1..).unwrap_or_default()),
        4 => label.replacen('e', "*", 1),
        _ => label.to_owned(),
    };
    host.split('.')
        .enumerate()
        .map(label)
        .collect::<Vec<_>>()
        .join(".")
}

fn any_key(places: &[Place]) -> impl Strategy<Value = String> + use<> {
    let globbed_place = (select(places.to_vec()), any::<u16>())
        .prop_map(|((host, port), choice)| (globbed(&host, choice), port));
    let place = prop_oneof![
        8 => select(places.to_vec()),
        8 => globbed_place,
        1 => (any_host(), any_port()),
        1 => (text(WILDCARDS), any_port()),
    ];
    let composed = (
        mostly(SCHEMES, BROKEN_SCHEMES),
        place,
        mostly(KEY_PATHS, BROKEN_KEY_PATHS),
    )
        .prop_map(|(scheme, (host, port), path)| format!("{scheme}{host}{port}{path}"))
        .boxed();
    prop_oneof![
        16 => composed.clone(),
        3 => text(&["https://index.docker.io/v1/", "index.docker.io", "docker.io", "https://index.docker.io/v2/"]),
        2 => disturbed(composed),
        1 => "[ -~]{0,16}",
        1 => any::<String>(),
    ]
}

/// Image and keys draw from the same few places, so that they meet often.
fn any_case() -> impl Strategy<Value = Case> {
    prop::collection::vec((any_host(), any_port()), 1..3).prop_flat_map(|places| {
        (
            any_image(&places),
            prop::collection::vec(any_key(&places), 0..9),
        )
            .prop_map(|(image, keys)| Case { image, keys })
    })
}
