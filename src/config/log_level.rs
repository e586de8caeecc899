//! Check of `log.level`: a level, or directives such as `info,waypost::dial=debug`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

const LEVELS: &str = "the levels are error, warn, info, debug, trace and off; a directive sets the level of \
                      a module, as in \"info,waypost::dial=debug\"";

/// Checks a log filter.
///
/// The parser of `EnvFilter` alone would accept a misspelt level as the name of a module.
pub fn check(filter: &str) -> Result<(), String> {
    for directive in filter.split(',').map(str::trim) {
        // The fields of a span may contain a "=", too.
        let after_span = directive.rsplit_once(']').map_or(directive, |(_, rest)| rest);
        let level = match after_span.rsplit_once('=') {
            Some((_, level)) => level,
            None if after_span.is_empty() && !directive.is_empty() => continue,
            None => after_span,
        };
        if !is_level(level) {
            let directive = if level == directive { String::new() } else { format!(" in {directive:?}") };
            return Err(format!("{level:?}{directive} is not a level; {LEVELS}"));
        }
    }
    EnvFilter::builder().parse(filter).map(drop).map_err(|error| format!("{error}; {LEVELS}"))
}

/// Returns whether a word is a level. The parser alone would accept the empty text.
fn is_level(word: &str) -> bool {
    !word.is_empty() && word.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_or_directives_are_accepted() {
        for filter in [
            "info",
            "WARN",
            "off",
            "0",
            "info,waypost::dial=debug",
            "warn,arti_client=info,tor_proto=off",
            "waypost[session]=debug",
            "info,[session{peer=x}]=trace,waypost[session]",
        ] {
            assert_eq!(check(filter), Ok(()), "{filter}");
        }
    }

    #[test]
    fn unknown_word_is_rejected_with_the_levels() {
        for filter in [
            "",
            " ",
            "warning",
            "verbose",
            "inof",
            "info,",
            "info,waypost",
            "info,waypost::dial",
            "info,waypost::dial=debgu",
            "waypost=",
            "=debug=",
            "info;debug",
            "waypost[session]x",
            "lou,d=er=",
        ] {
            let reason = check(filter).unwrap_err();
            assert!(reason.contains("error, warn, info, debug, trace and off"), "{filter}: {reason}");
        }
        assert!(check("info,waypost=warning").unwrap_err().starts_with("\"warning\" in \"waypost=warning\" is not"));
    }
}
