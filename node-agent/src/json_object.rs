//! A JSON object as the text that it is. Members are put in, changed and taken out; everything else stays letter by
//! letter: order, white space, numbers of any size, names that occur twice.

use serde::de::{DeserializeOwned, IgnoredAny};
use zeroize::Zeroizing;

/// An object, over texts that others own.
#[derive(Clone)]
pub(crate) struct Object<'a> {
    members: Vec<Member<'a>>,
    /// White space between the braces where there is no member.
    blank: &'a str,
}

/// One member, with what is around it.
#[derive(Clone)]
pub(crate) struct Member<'a> {
    /// White space before the name.
    before: &'a str,
    /// The name as it is written.
    name_text: Name<'a>,
    /// The name that is meant.
    name: String,
    /// The colon, with white space.
    colon: &'a str,
    /// The value.
    value: &'a str,
    /// White space after the value.
    after: &'a str,
}

#[derive(Clone)]
enum Name<'a> {
    Found(&'a str),
    New(String),
}

/// The text is no JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAnObject;

impl<'a> Object<'a> {
    /// Without members.
    pub(crate) fn empty() -> Self {
        Self {
            members: Vec::new(),
            blank: "",
        }
    }

    /// Reads an object, without white space around it.
    pub(crate) fn parse(text: &'a str) -> Result<Self, NotAnObject> {
        let mut rest = text.strip_prefix('{').ok_or(NotAnObject)?;
        let mut members: Vec<Member<'a>> = Vec::new();
        loop {
            let (before, from_name) = blank(rest);
            if members.is_empty() && from_name == "}" {
                return Ok(Self {
                    members,
                    blank: before,
                });
            }
            let (name, name_text, from_colon) = token::<String>(from_name)?;
            let after_colon = blank(from_colon).1.strip_prefix(':').ok_or(NotAnObject)?;
            let from_value = blank(after_colon).1;
            let colon = from_colon.strip_suffix(from_value).ok_or(NotAnObject)?;
            let (IgnoredAny, value, after_value) = token(from_value)?;
            let (after, separator) = blank(after_value);
            members.push(Member {
                before,
                name_text: Name::Found(name_text),
                name,
                colon,
                value,
                after,
            });
            if separator == "}" {
                return Ok(Self { members, blank: "" });
            }
            rest = separator.strip_prefix(',').ok_or(NotAnObject)?;
        }
    }

    /// The text.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        let size: usize = self.members.iter().map(Member::len).sum();
        // room for all of it, so that nothing is left behind in memory that was given back
        let mut text = Zeroizing::new(String::with_capacity(size + self.blank.len() + 2));
        text.push('{');
        for (index, member) in self.members.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            for part in member.parts() {
                text.push_str(part);
            }
        }
        if self.members.is_empty() {
            text.push_str(self.blank);
        }
        text.push('}');
        text
    }

    /// All members, in their order.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.members
            .iter()
            .map(|member| (member.name.as_str(), member.value))
    }

    /// Whether there is no member.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Gives the member at this place another value.
    pub(crate) fn set(&mut self, index: usize, value: &'a str) {
        if let Some(member) = self.members.get_mut(index) {
            member.value = value;
        }
    }

    /// Puts a member at the end, laid out as the one before it.
    pub(crate) fn push(&mut self, name: &str, value: &'a str) {
        let last = self.members.last_mut();
        let (before, colon, after) = match last {
            None => ("", ":", self.blank),
            Some(last) => (last.before, last.colon, std::mem::take(&mut last.after)),
        };
        self.members.push(Member {
            before,
            // a text always serializes
            name_text: Name::New(serde_json::to_string(name).unwrap_or_default()),
            name: name.to_owned(),
            colon,
            value,
            after,
        });
    }

    /// Takes out the members that are not to stay, by their places: the reverse of [`Object::push`].
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(usize) -> bool) {
        let members = std::mem::take(&mut self.members);
        let end = members.last().map_or(self.blank, |last| last.after);
        let had_any = !members.is_empty();
        for (index, member) in members.into_iter().enumerate() {
            if stays(index) {
                self.members.push(member);
            }
        }
        match self.members.last_mut() {
            Some(last) if last.after.is_empty() => last.after = end,
            Some(_) => {}
            None if had_any => self.blank = end,
            None => {}
        }
    }
}

impl Member<'_> {
    fn parts(&self) -> [&str; 5] {
        let name = match &self.name_text {
            Name::Found(text) => text,
            Name::New(text) => text.as_str(),
        };
        [self.before, name, self.colon, self.value, self.after]
    }

    fn len(&self) -> usize {
        self.parts().map(str::len).iter().sum::<usize>() + 1
    }
}

/// White space at the beginning, and the rest. RFC 8259, section 2, knows four kinds of it.
pub(crate) fn blank(text: &str) -> (&str, &str) {
    let rest = text.trim_start_matches([' ', '\t', '\n', '\r']);
    (text.strip_suffix(rest).unwrap_or_default(), rest)
}

/// The JSON value at the beginning: what it is, its text, and the rest.
fn token<T: DeserializeOwned>(text: &str) -> Result<(T, &str, &str), NotAnObject> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let value = values.next().and_then(Result::ok).ok_or(NotAnObject)?;
    let (of_value, rest) = text
        .split_at_checked(values.byte_offset())
        .ok_or(NotAnObject)?;
    Ok((value, of_value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    /// Objects as people and programs lay them out.
    fn object() -> impl Strategy<Value = String> {
        let blank = "[ \t\n\r]{0,3}";
        let name = prop_oneof!["[a-z.:/]{0,8}", Just("auths".to_owned()), "\\PC{0,4}"];
        let value = prop_oneof![
            Just("null".to_owned()),
            Just("-1.50e+300".to_owned()),
            Just("123456789012345678901234567890".to_owned()),
            Just(r#""a\u0000\"b}""#.to_owned()),
            Just("[1, {\"b\" : [ ] }]".to_owned()),
            Just("{ \"x\":{}}".to_owned()),
        ];
        let member = (blank, name, blank, blank, value, blank).prop_map(
            |(before, name, colon, gap, value, after)| {
                let name = serde_json::to_string(&name).unwrap();
                format!("{before}{name}{colon}:{gap}{value}{after}")
            },
        );
        (prop::collection::vec(member, 0..5), blank).prop_map(|(members, blank)| {
            if members.is_empty() {
                format!("{{{blank}}}")
            } else {
                format!("{{{}}}", members.join(","))
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_not_touched_stays_as_it_is(text in object()) {
            let parsed = Object::parse(&text).unwrap();
            prop_assert_eq!(&*parsed.text(), &text);
        }

        #[test]
        fn what_is_put_in_can_be_taken_out(text in object(), more in 1usize..4) {
            let mut object = Object::parse(&text).unwrap();
            let there = object.members().count();
            for n in 0..more {
                object.push(&format!("new\"{n}"), "{\"auth\":\"x\"}");
            }
            let grown = object.text();
            prop_assert!(serde_json::from_str::<IgnoredAny>(&grown).is_ok());
            let mut again = Object::parse(&grown).unwrap();
            prop_assert_eq!(again.members().count(), there + more);
            again.retain(|index| index < there);
            prop_assert_eq!(&*again.text(), &text);
        }

        #[test]
        fn members_are_those_that_serde_sees(text in object()) {
            let object = Object::parse(&text).unwrap();
            let seen: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
            for (name, value) in seen {
                // the last of several with one name counts
                let (_, found) = object.members().filter(|(member, _)| *member == name).last().unwrap();
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(found).unwrap(), value);
            }
        }

        #[test]
        fn anything_else_is_refused_and_nothing_panics(text in "\\PC{0,20}") {
            let is_object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok();
            if Object::parse(&text).is_ok() {
                prop_assert!(is_object, "{text}");
            }
        }
    }

    #[rstest]
    #[case("")]
    #[case("{")]
    #[case("[]")]
    #[case(" {}")]
    #[case("{} ")]
    #[case("{,}")]
    #[case("{\"a\":1,}")]
    #[case("{\"a\":1 \"b\":2}")]
    #[case("{\"a\" 1}")]
    #[case("{a:1}")]
    #[case("{\"a\":}")]
    #[case("{\"a\":1}}")]
    #[case("{\"a\":01}")]
    fn is_no_object(#[case] text: &str) {
        assert_eq!(Object::parse(text).err(), Some(NotAnObject));
    }

    #[test]
    fn new_members_are_laid_out_as_the_last() {
        let text = "{\n\t\"a\": 1\n}";
        let mut object = Object::parse(text).unwrap();
        object.push("b", "2");
        assert_eq!(&*object.text(), "{\n\t\"a\": 1,\n\t\"b\": 2\n}");
    }

    #[test]
    fn members_between_others_go_without_a_trace() {
        let mut object = Object::parse(r#"{"a":1, "b":2, "c":3 }"#).unwrap();
        object.retain(|index| index != 1);
        assert_eq!(&*object.text(), r#"{"a":1, "c":3 }"#);
        object.retain(|index| index != 0);
        assert_eq!(&*object.text(), r#"{ "c":3 }"#);
    }
}
