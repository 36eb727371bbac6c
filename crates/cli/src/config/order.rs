//! In which order applications are started.

/// The positions in start order: whatever is named in `after` comes before, and else it is as in the file.
///
/// # Errors
/// What cannot be, by position: a name that nobody has (if all names are known), and those who wait for each other.
pub(super) fn order(
    apps: &[(&str, &[String])],
    is_complete: bool,
) -> Result<Vec<usize>, Vec<(usize, String)>> {
    let position = |name: &str| apps.iter().position(|(known, _)| *known == name);
    let mut wrong = Vec::new();
    let mut needs: Vec<Vec<usize>> = Vec::new();
    for (at, (_, after)) in apps.iter().enumerate() {
        let mut found = Vec::new();
        for name in *after {
            match position(name) {
                Some(other) => found.push(other),
                None if is_complete => wrong.push((at, unknown(name, apps))),
                None => {}
            }
        }
        needs.push(found);
    }
    let mut done: Vec<usize> = Vec::new();
    while done.len() < apps.len() {
        let is_next = |at: &usize| {
            !done.contains(at)
                && needs.get(*at).is_some_and(|list| list.iter().all(|n| done.contains(n)))
        };
        match (0..apps.len()).find(is_next) {
            Some(next) => done.push(next),
            None => {
                let circle = circle(&needs, &done);
                let names = circle.iter().chain(circle.first());
                let names = names.filter_map(|at| apps.get(*at)).map(|(name, _)| *name);
                let names = names.collect::<Vec<_>>().join(" → ");
                let at = circle.first().copied().unwrap_or_default();
                wrong.push((at, format!("each waits for the next: {names}")));
                // There may be others.
                done.extend(circle);
            }
        }
    }
    if wrong.is_empty() { Ok(done) } else { Err(wrong) }
}

fn unknown(name: &str, apps: &[(&str, &[String])]) -> String {
    let known: Vec<&str> = apps.iter().map(|(name, _)| *name).collect();
    let like = crate::ui::words::nearest(name, known.iter().copied());
    let like = like.map(|like| format!("; did you mean {like}?")).unwrap_or_default();
    let name = name.escape_debug();
    format!("no application is called `{name}`{like} (there are {})", known.join(", "))
}

/// Those who wait for each other: each that is left needs another that is left, so going on from one comes to a circle.
fn circle(needs: &[Vec<usize>], done: &[usize]) -> Vec<usize> {
    let mut path = Vec::new();
    let mut at = (0..needs.len()).find(|at| !done.contains(at)).unwrap_or(0);
    while !path.contains(&at) {
        path.push(at);
        let next = needs.get(at).and_then(|list| list.iter().copied().find(|n| !done.contains(n)));
        let Some(next) = next else { break };
        at = next;
    }
    let begin = path.iter().position(|other| *other == at).unwrap_or(0);
    path.split_off(begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, String> {
        let apps: Vec<(String, Vec<String>)> = text
            .split_whitespace()
            .map(|app| app.split_once(':').unwrap_or((app, "")))
            .map(|(name, after)| {
                let after = after.split(',').filter(|name| !name.is_empty());
                (name.to_owned(), after.map(str::to_owned).collect())
            })
            .collect();
        let apps: Vec<(&str, &[String])> =
            apps.iter().map(|(name, after)| (name.as_str(), after.as_slice())).collect();
        match order(&apps, true) {
            Ok(order) => {
                Ok(order.iter().filter_map(|at| apps.get(*at)).map(|(name, _)| *name).collect())
            }
            Err(wrong) => {
                let lines = wrong.into_iter().map(|(at, words)| format!("{at}: {words}"));
                Err(lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }

    #[test]
    fn orders() {
        assert_eq!(of("a b c"), Ok("abc".into()));
        assert_eq!(of("a:c b c"), Ok("bca".into()));
        assert_eq!(of("a:b,c b:c c"), Ok("cba".into()));
        assert_eq!(of("d:c c:b b:a a"), Ok("abcd".into()));
        assert_eq!(of(""), Ok(String::new()));
    }

    #[test]
    fn what_cannot_be() {
        assert_eq!(of("a:a"), Err("0: each waits for the next: a → a".into()));
        assert_eq!(of("x a:b b:c c:a"), Err("1: each waits for the next: a → b → c → a".into()));
        assert_eq!(of("x:a a:b b:a"), Err("1: each waits for the next: a → b → a".into()));
        assert_eq!(
            of("a:b b:a c:d d:e e:d"),
            Err("0: each waits for the next: a → b → a\n3: each waits for the next: d → e → d"
                .into())
        );
        let words = of("a:a b:zed").unwrap_err();
        assert!(words.contains("`zed`") && words.contains("a → a"), "{words}");
        let words = of("api:bd db").unwrap_err();
        assert!(words.contains("`bd`; did you mean db? (there are api, db)"), "{words}");
    }
}
