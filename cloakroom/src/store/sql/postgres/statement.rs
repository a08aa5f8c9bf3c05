//! Statements with their values: prepared ones, or, where a pooler stands in between, in one piece.

use std::{fmt::Write, sync::Arc};

use sqlx::{Arguments, Error as SqlError, postgres::PgArguments};

use crate::token::{Digest, SessionId};

/// A statement, in which `$1` stands for the first of its values.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) text: Arc<str>,
    pub(super) args: Vec<Arg>,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Arg {
    Int(Option<i64>),
    Bool(bool),
    Text(Option<Arc<str>>),
    Bytes(Option<Vec<u8>>),
    Ints(Vec<Option<i64>>),
    Bools(Vec<bool>),
    Texts(Vec<Option<Arc<str>>>),
    ByteLists(Vec<Vec<u8>>),
}

impl Arg {
    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(Some(text.into()))
    }

    pub(super) fn id(id: SessionId) -> Self {
        Self::Bytes(Some(id.as_bytes().to_vec()))
    }

    pub(super) fn ids(ids: impl IntoIterator<Item = SessionId>) -> Self {
        Self::ByteLists(ids.into_iter().map(|id| id.as_bytes().to_vec()).collect())
    }

    pub(super) fn digest(digest: Option<&Digest>) -> Self {
        Self::Bytes(digest.map(|digest| digest.as_bytes().to_vec()))
    }

    pub(super) fn count(count: usize) -> Self {
        Self::Int(Some(i64::try_from(count).unwrap_or(i64::MAX)))
    }
}

impl Statement {
    /// The values, for a prepared statement.
    pub(super) fn bind(&self) -> Result<PgArguments, SqlError> {
        let mut bound = PgArguments::default();
        for arg in &self.args {
            match arg {
                Arg::Int(number) => bound.add(number),
                Arg::Bool(is_so) => bound.add(is_so),
                Arg::Text(text) => bound.add(text.as_deref()),
                Arg::Bytes(bytes) => bound.add(bytes.as_deref()),
                Arg::Ints(numbers) => bound.add(numbers),
                Arg::Bools(all) => bound.add(all),
                Arg::Texts(texts) => bound.add(texts.iter().map(Option::as_deref).collect::<Vec<_>>()),
                Arg::ByteLists(lists) => bound.add(lists),
            }
            .map_err(SqlError::Encode)?;
        }
        Ok(bound)
    }

    /// The statement with its values in it, as one transaction that ends whatever happens. A pooler in transaction mode hands
    /// each transaction to a server of its own, so nothing is prepared, and settings hold for this one alone.
    pub(super) fn in_one_piece(&self) -> String {
        let mut whole = String::from(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL bytea_output = hex; \
             SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL jit = off; SET LOCAL enable_seqscan = off; ",
        );
        let mut pieces = self.text.split('$');
        whole.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            let digits = piece.len() - piece.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
            let (place, rest) = piece.split_at(digits);
            if let Some(arg) = place.parse::<usize>().ok().and_then(|place| self.args.get(place - 1)) {
                write_literal(&mut whole, arg);
            } else {
                whole.push('$');
                whole.push_str(place);
            }
            whole.push_str(rest);
        }
        whole
    }
}

fn write_literal(whole: &mut String, arg: &Arg) {
    match arg {
        Arg::Int(number) => write_one(whole, number.as_ref(), "bigint", |whole, number| write!(whole, "'{number}'")),
        Arg::Bool(is_so) => write!(whole, "{is_so}"),
        Arg::Text(text) => write_one(whole, text.as_deref(), "text", write_text),
        Arg::Bytes(bytes) => write_one(whole, bytes.as_deref(), "bytea", write_bytes),
        Arg::Ints(numbers) => {
            write_list(whole, numbers.iter().map(Option::as_ref), "bigint", |whole, number| write!(whole, "'{number}'"))
        }
        Arg::Bools(all) => write_list(whole, all.iter().map(Some), "boolean", |whole, is_so| write!(whole, "{is_so}")),
        Arg::Texts(texts) => write_list(whole, texts.iter().map(Option::as_deref), "text", write_text),
        Arg::ByteLists(lists) => write_list(whole, lists.iter().map(|list| Some(&**list)), "bytea", write_bytes),
    }
    .expect("a string takes everything");
}

type Written = Result<(), std::fmt::Error>;

fn write_one<T: ?Sized>(
    whole: &mut String,
    value: Option<&T>,
    kind: &str,
    write_value: impl Fn(&mut String, &T) -> Written,
) -> Written {
    match value {
        Some(value) => write_value(whole, value)?,
        None => whole.push_str("NULL"),
    }
    write!(whole, "::{kind}")
}

fn write_list<'a, T: ?Sized + 'a>(
    whole: &mut String,
    values: impl Iterator<Item = Option<&'a T>>,
    kind: &str,
    write_value: impl Fn(&mut String, &T) -> Written + Copy,
) -> Written {
    whole.push_str("ARRAY[");
    for (place, value) in values.enumerate() {
        if place > 0 {
            whole.push(',');
        }
        write_one(whole, value, kind, write_value)?;
    }
    write!(whole, "]::{kind}[]")
}

/// Whatever `standard_conforming_strings` says, it means the same.
fn write_text(whole: &mut String, text: &str) -> Written {
    // U+0000 would end the statement in the protocol. The server refuses its escape as it refuses the character.
    let text = text.replace('\\', "\\\\").replace('\'', "''").replace('\0', "\\000");
    write!(whole, "E'{text}'")
}

fn write_bytes(whole: &mut String, bytes: &[u8]) -> Written {
    whole.push_str("decode('");
    bytes.iter().try_for_each(|byte| write!(whole, "{byte:02x}"))?;
    whole.push_str("', 'hex')");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_where_they_stand() {
        let statement = Statement {
            text: "SELECT $2, $1, $10, $3 FROM t WHERE a = $4 AND b = ANY ($5) AND c = ANY ($6) AND d = $7".into(),
            args: vec![
                Arg::Int(Some(i64::MIN)),
                Arg::text("it's a \\ and $1"),
                Arg::Bytes(Some(vec![0, 255])),
                Arg::Int(None),
                Arg::Texts(vec![Some("a".into()), None]),
                Arg::ByteLists(Vec::new()),
                Arg::Bool(true),
            ],
        };
        let whole = statement.in_one_piece();
        let whole = whole.split_once("enable_seqscan = off; ").unwrap().1;
        assert_eq!(
            whole,
            "SELECT E'it''s a \\\\ and $1'::text, '-9223372036854775808'::bigint, $10, decode('00ff', 'hex')::bytea FROM t \
             WHERE a = NULL::bigint AND b = ANY (ARRAY[E'a'::text,NULL::text]::text[]) AND c = ANY (ARRAY[]::bytea[]) AND \
             d = true"
        );
    }
}
