//! `phalanx save` and `phalanx resurrect`: what is to run, kept and started again.

use crate::args::{Resurrect, Save};
use crate::failure::{Failure, UNEXPECTED};
use crate::home::{Home, Lock, Spec};
use crate::startup::stay::stay;
use crate::{show, start};
use std::time::Duration;

/// Until all are ready.
const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn save(options: &Save) -> Result<(), Failure> {
    let home = Home::find()?;
    if home.intents()?.is_empty() && !options.force {
        return Err(Failure::tool(UNEXPECTED, "there is no application to be kept")
            .hint("--force keeps that there is none"));
    }
    home.prepare()?;
    let (file, count) = home.save()?;
    let noun = if count == 1 { "application" } else { "applications" };
    show::say(&format!("{count} {noun} kept in {}", file.display()));
    Ok(())
}

pub(crate) fn resurrect(options: &Resurrect) -> Result<(), Failure> {
    if options.stay {
        let (boot, generation) = (options.boot, options.generation);
        return stay(move || once(boot, generation));
    }
    once(options.boot, options.generation)
}

fn once(boot: bool, generation: usize) -> Result<(), Failure> {
    let home = Home::find()?;
    let mut wanted = home.intents()?;
    let snapshot = if boot { None } else { home.snapshot(generation)? };
    if snapshot.is_none() && generation > 1 {
        let message = format!("there are not {generation} snapshots");
        return Err(Failure::tool(UNEXPECTED, message));
    }
    let known: Vec<String> = wanted.iter().map(|spec| spec.name.clone()).collect();
    let deleted = |spec: &Spec| !known.contains(&spec.name);
    wanted.extend(snapshot.into_iter().flatten().filter(deleted));
    let (running, missing): (Vec<Spec>, Vec<Spec>) = wanted
        .into_iter()
        .filter(|spec| !spec.stopped)
        .partition(|spec| Lock::is_held(&home.app(&spec.name)));
    let unreadable = home.unreadable()?;
    for name in &unreadable {
        show::say(&format!(
            "{name}: what it is to be cannot be read any more, nor what it was before"
        ));
    }
    if missing.is_empty() {
        show::say(match running.is_empty() {
            true => "nothing is to run",
            false => "all that is to run does",
        });
    } else {
        let specs = missing.iter().map(start::anew_or_at_least_as_it_was).collect();
        start::start_all(&home, specs, WAIT)?;
    }
    match unreadable.as_slice() {
        [] => Ok(()),
        names => Err(Failure::tool(UNEXPECTED, format!("not started: {}", names.join(", ")))
            .hint("`phalanx delete` forgets them; start them anew")),
    }
}
