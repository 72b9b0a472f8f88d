//! Names in messages: the first few, and how many more there are.

/// So many namespaces, and so many keys, a message names; the rest it counts.
const NAMED: usize = 5;

/// The first of so many, and how many more there are.
pub(super) fn enumerate(some: &[String], of: usize) -> String {
    let named = some.join(", ");
    match of.saturating_sub(some.len()) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// The first of all these, and how many more there are.
pub(crate) fn first_of(all: impl ExactSizeIterator<Item = String>) -> String {
    let count = all.len();
    let some: Vec<String> = all.take(NAMED).collect();
    enumerate(&some, count)
}

/// Keeps the first names by the alphabet, so that the message does not depend on an order by chance.
pub(super) fn keep_first(names: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    names.extend(more);
    names.sort_unstable();
    names.truncate(NAMED);
}
