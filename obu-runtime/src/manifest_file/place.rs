//! Finds the place of a key in a YAML text by its path, so that a mistake found later can be pointed at.

use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::options;
use crate::file_error::{offset, word_end};

/// The bytes of the deepest key of `path` that exists; the start of the text if none does.
pub(super) fn of(text: &str, path: &[&str]) -> Range<usize> {
    let found = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
        Walk(path).deserialize(yaml)
    });
    let Ok(Some((line, column))) = found else { return 0..0 };
    let start = offset(text, line, column);
    start..word_end(text, start)
}

/// Splits `apps.NAME.key.key` at its dots; `NAME` is one of `names`, and may hold dots itself.
pub(super) fn split<'a>(place: &'a str, names: &[String]) -> Vec<&'a str> {
    let Some((top, rest)) = place.split_once('.') else { return vec![place] };
    let fits = |name: &&String| rest.strip_prefix(name.as_str()).is_some_and(|r| r.starts_with('.'));
    let len = names.iter().filter(fits).map(String::len).max();
    let Some((name, keys)) = len.map(|len| rest.split_at(len)) else { return vec![top] };
    let mut parts = vec![top, name];
    parts.extend(keys.split('.').filter(|key| !key.is_empty()));
    parts
}

/// Line and column of a key.
type Found = Option<(u64, u64)>;

/// Walks down one path and passes over everything else.
struct Walk<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            match self.0.split_first() {
                Some((first, rest)) if *first == key.value => {
                    let here = (key.referenced.line(), key.referenced.column());
                    found = map.next_value_seed(Walk(rest))?.or(Some(here));
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(None)
    }
}
