//! The prompts that C2LLM was trained with, letter by letter (arXiv 2512.21332 and its published prompt table).

/// Name and text of every known prompt. Query prompts end with a newline; the document prompt has neither a space nor a
/// newline after it. The slip in `codeedit` is the original's.
pub const PROMPTS: [(&str, &str); 12] = [
    ("document", "Retrieved Answer:"),
    ("codesearchnet", "Retrieve the code that solves the following query:\n"),
    ("codeedit", "Retrieve the diff code that relevant the following query:\n"),
    (
        "apps",
        "Given a problem description from a programming contest, retrieve code examples that can assist in solving it.\n",
    ),
    (
        "codefeedback-mt",
        "Given a multi-turn conversation history that includes both text and code, retrieve relevant multi-modal answers composed of text and code that address the ongoing discussion.\n",
    ),
    (
        "codefeedback-st",
        "Given a single-turn question composed of text and code, retrieve suitable answers that also mix text and code to provide helpful feedback.\n",
    ),
    ("codesearchnet-cc", "Given an initial code segment, retrieve the subsequent segment that continues the code.\n"),
    ("codetransocean", "Given a Python code snippet, retrieve its semantically equivalent version written in C++.\n"),
    (
        "coir-codesearchnet",
        "Given a code snippet, retrieve its corresponding document string that summarizes its functionality.\n",
    ),
    ("cosqa", "Given a query from a web search, retrieve code that is helpful in addressing the query.\n"),
    (
        "stackoverflow-qa",
        "Given a question combining text and code, retrieve relevant answers that also contain both text and code snippets and can address the question.\n",
    ),
    ("text2sql", "Given a natural language question, retrieve SQL queries that serve as appropriate responses.\n"),
];

/// The text to put in front of every row: that of the prompt so named, or `name` itself, literally, where no prompt has
/// that name. The empty string is no prompt.
pub fn resolve_prompt(name: &str) -> &str {
    PROMPTS.iter().find(|(known, _)| *known == name).map_or(name, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_is_its_text_and_anything_else_is_literal() {
        assert_eq!(resolve_prompt("document"), "Retrieved Answer:");
        assert_eq!(resolve_prompt("cosqa").chars().last(), Some('\n'));
        assert_eq!(resolve_prompt("Find: "), "Find: ");
        assert_eq!(resolve_prompt(""), "");
    }

    #[test]
    fn every_query_prompt_ends_with_a_newline() {
        assert!(PROMPTS[1..].iter().all(|(_, text)| text.ends_with('\n') && !text.ends_with("\n\n")));
    }
}
