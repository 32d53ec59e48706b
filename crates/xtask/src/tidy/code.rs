//! Rust source as words: comments gone, strings apart, and what only tests see known as such.

use std::iter;

/// A piece of code and its line, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// What a token is, as far as the rules care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Word,
    Integer,
    Float,
    /// A string literal; `text` is what stands between the quotes.
    String,
    /// One character of punctuation; a lifetime's or character literal's quote included.
    Mark,
}

/// A source file's tokens, parted into what ships and what only tests see.
#[derive(Debug, Default)]
pub(crate) struct Code {
    /// Outside `#[cfg(test)]`.
    pub(crate) shipped: Vec<Token>,
    /// Modules declared `#[cfg(test)] mod name;`: their files are tests too.
    pub(crate) test_modules: Vec<String>,
    /// How many lines `#[cfg(test)]` covers.
    pub(crate) test_lines: usize,
}

impl Code {
    pub(crate) fn parse(source: &str) -> Code {
        let tokens = tokens(source);
        let mut code = Code::default();
        let mut at = 0;
        while at < tokens.len() {
            if is_test_attribute(&tokens[at..]) {
                if tokens.get(at + 1).is_some_and(|t| t.text == "!") {
                    code.test_lines = source.lines().count();
                    code.shipped.clear();
                    return code;
                }
                let end = item_end(&tokens, at);
                let item = &tokens[at..end];
                code.test_lines += item.last().map_or(0, |last| last.line + 1 - tokens[at].line);
                code.test_modules.extend(module_declared(item));
                at = end;
            } else {
                code.shipped.push(tokens[at].clone());
                at += 1;
            }
        }
        code
    }

    /// Where these words and marks stand in this order, as indices into `shipped`.
    pub(crate) fn find<'c>(&'c self, words: &'c [&str]) -> impl Iterator<Item = usize> + 'c {
        let starts = 0..self.shipped.len().saturating_sub(words.len().saturating_sub(1));
        starts.filter(move |&start| {
            iter::zip(&self.shipped[start..], words)
                .all(|(token, word)| token.kind != Kind::String && token.text == *word)
        })
    }
}

/// `#[cfg(test)]`, `#[cfg(all(test, …))]`, and the same with `#!`.
fn is_test_attribute(tokens: &[Token]) -> bool {
    let texts = || tokens.iter().map(|t| t.text.as_str()).filter(|text| *text != "!");
    texts().take(6).eq(["#", "[", "cfg", "(", "test", ")"])
        || texts().take(7).eq(["#", "[", "cfg", "(", "all", "(", "test"])
}

/// The index after the item that the attribute at `start` belongs to.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut at = start;
    while tokens.get(at).is_some_and(|t| t.text == "#" && t.kind == Kind::Mark) {
        at = group_end(tokens, at + 1);
    }
    let first = tokens[at..].iter().take(8).map(|t| t.text.as_str()).find(|text| {
        !matches!(*text, "pub" | "(" | ")" | "crate" | "super" | "in" | "unsafe" | "default" | "async")
    });
    let to_semicolon = matches!(first, Some("use" | "const" | "static" | "type" | "let"));
    let braced = matches!(
        first,
        Some("fn" | "mod" | "impl" | "struct" | "enum" | "union" | "trait" | "extern" | "macro_rules")
    );
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            _ if tokens[at].kind != Kind::Mark => at += 1,
            ";" => return at + 1,
            "," if !to_semicolon && !braced => return at + 1,
            "}" | ")" | "]" => return at,
            "{" => {
                at = group_end(tokens, at);
                if !to_semicolon {
                    return at;
                }
            }
            "(" | "[" => at = group_end(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// The index after the bracket that closes the one at or after `start`.
fn group_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            _ if token.kind != Kind::Mark => {}
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

fn module_declared(item: &[Token]) -> Option<String> {
    let [.., keyword, name, end] = item else { return None };
    (keyword.text == "mod" && end.text == ";").then(|| name.text.clone())
}

fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source, line: 1, tokens: Vec::new() };
    while lexer.step() {}
    lexer.tokens
}

struct Lexer<'s> {
    rest: &'s str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) -> bool {
        let Some(c) = self.rest.chars().next() else { return false };
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.skip(block_comment(self.rest));
        } else if let Some((open, close)) = string_opening(self.rest) {
            self.string(open, &close);
        } else if c.is_ascii_digit() {
            self.number();
        } else if is_word(c) {
            let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
            self.push(Kind::Word, end);
        } else if c == '\'' {
            self.quote();
        } else if c.is_whitespace() {
            self.skip(c.len_utf8());
        } else {
            self.push(Kind::Mark, c.len_utf8());
        }
        true
    }

    fn skip(&mut self, bytes: usize) {
        self.line += self.rest[..bytes].matches('\n').count();
        self.rest = &self.rest[bytes..];
    }

    fn push(&mut self, kind: Kind, bytes: usize) {
        self.tokens.push(Token { line: self.line, kind, text: self.rest[..bytes].to_owned() });
        self.skip(bytes);
    }

    fn string(&mut self, open: usize, close: &str) {
        let body = &self.rest[open..];
        let end = if close == "\"" { plain_string(body) } else { body.find(close).unwrap_or(body.len()) };
        self.tokens.push(Token { line: self.line, kind: Kind::String, text: body[..end].to_owned() });
        self.skip((open + end + close.len()).min(self.rest.len()));
    }

    /// A character literal goes; a lifetime leaves its mark and word.
    fn quote(&mut self) {
        let mut after = self.rest[1..].chars();
        let first = after.next();
        if first == Some('\\') {
            let end = self.rest[3..].find('\'').map_or(self.rest.len(), |end| end + 4);
            self.skip(end);
        } else if after.next() == Some('\'') {
            self.skip(2 + first.map_or(0, char::len_utf8));
        } else {
            self.push(Kind::Mark, 1);
        }
    }

    fn number(&mut self) {
        let end_of = |text: &str| text.find(|c| !is_word(c)).unwrap_or(text.len());
        let mut end = end_of(self.rest);
        let is_field = self.tokens.last().is_some_and(|token| token.text == ".");
        let mut kind = Kind::Integer;
        if !is_field && self.rest[end..].starts_with('.') {
            let next = self.rest[end + 1..].chars().next();
            if next.is_none_or(|c| c.is_ascii_digit() || (c != '.' && !is_word(c))) {
                end += 1 + end_of(&self.rest[end + 1..]);
                kind = Kind::Float;
            }
        }
        let text = &self.rest[..end];
        let radix = ["0x", "0b", "0o"].iter().any(|prefix| text.starts_with(prefix));
        let exponent = text.split(['u', 'i']).next().is_some_and(|digits| digits.contains(['e', 'E']));
        if !radix && (exponent || text.ends_with("f32") || text.ends_with("f64")) {
            kind = Kind::Float;
        }
        self.push(kind, end);
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// How long the opening of a string literal here is, and what closes it.
fn string_opening(text: &str) -> Option<(usize, String)> {
    let after_prefix = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - after_prefix.len();
    if prefix > 1 {
        return None;
    }
    if after_prefix.starts_with('"') {
        return Some((prefix + 1, "\"".to_owned()));
    }
    let after_r = after_prefix.strip_prefix('r')?;
    let hashes = after_r.len() - after_r.trim_start_matches('#').len();
    after_r[hashes..]
        .starts_with('"')
        .then(|| (prefix + 1 + hashes + 1, format!("\"{}", "#".repeat(hashes)).to_string()))
}

/// Where a string literal that may hold escapes ends.
fn plain_string(body: &str) -> usize {
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return at,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        Code::parse(source).shipped.into_iter().map(|token| token.text).collect()
    }

    fn kinds(source: &str) -> Vec<Kind> {
        Code::parse(source).shipped.into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn comments_vanish_and_lines_are_counted_through_them() {
        let code = Code::parse("// f64\n/* a /* f32 */ b\n*/ x");
        assert_eq!(code.shipped, [Token { line: 3, kind: Kind::Word, text: "x".to_owned() }]);
    }

    #[test]
    fn what_stands_in_strings_is_one_token() {
        assert_eq!(
            words(r##"a("x \" y", r#"f64 " z"#, b"q")"##),
            ["a", "(", "x \\\" y", ",", "f64 \" z", ",", "q", ")"]
        );
    }

    #[test]
    fn character_literals_vanish_and_lifetimes_stay() {
        assert_eq!(words(r"'a' '\'' '\u{1f}' '{' &'a str"), ["&", "'", "a", "str"]);
    }

    #[test]
    fn floats_are_told_from_integers_ranges_and_fields() {
        use Kind::{Float, Integer};
        for float in ["1.5", "1.", "1e9", "2f64", "1_000.0f32", "3E-2"] {
            assert_eq!(kinds(float)[0], Float, "{float}");
        }
        for integer in ["1", "0x1e5", "7u64", "1_000i128", "0b11", "1usize"] {
            assert_eq!(kinds(integer), [Integer], "{integer}");
        }
        assert!(!kinds("0..9").contains(&Float));
        assert!(!kinds("self.0.1").contains(&Float));
        assert!(!kinds("1.max(2)").contains(&Float));
    }

    #[test]
    fn what_is_under_cfg_test_does_not_ship() {
        assert_eq!(words("a; #[cfg(test)] mod tests { fn f() { b } } c"), ["a", ";", "c"]);
        assert_eq!(words("#[cfg(test)] use x::{y, z}; c"), ["c"]);
        assert_eq!(words("#[cfg(test)]\n#[allow(x)]\npub(crate) fn f<A, B>(a: A) -> [u8; 3] { b } c"), ["c"]);
        assert_eq!(words("#[cfg(all(test, unix))] const X: [u8; 2] = [1, 2]; c"), ["c"]);
        assert_eq!(words("struct S { #[cfg(test)] a: u8, b: u8 }").len(), 7);
        assert_eq!(words("enum E { A, #[cfg(test)] B }"), ["enum", "E", "{", "A", ",", "}"]);
        assert!(words("#![cfg(test)] a").is_empty());
    }

    #[test]
    fn what_other_configurations_see_ships() {
        assert!(words("#[cfg(not(test))] fn f() {}").contains(&"f".to_owned()));
        assert!(words("#[cfg(any(test, unix))] fn f() {}").contains(&"f".to_owned()));
    }

    #[test]
    fn test_modules_in_other_files_are_known_by_name() {
        let code = Code::parse("mod real;\n#[cfg(test)]\nmod tests;\n");
        assert_eq!(code.test_modules, ["tests"]);
        assert_eq!(code.test_lines, 2);
    }
}
