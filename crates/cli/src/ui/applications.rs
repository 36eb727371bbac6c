//! Applications and their workers as a table.

use super::screen::{Screen, Style};
use super::table::{Cell, Column, render};
use super::words::{Status, cpu, memory, status, time};
use crate::control::Description;
use std::cmp::Ordering;
use std::str::FromStr;

/// Below so many columns there are no rows for workers.
const NARROW: usize = 60;
/// Ports that a terminal shows; the rest is counted.
const PORTS: usize = 2;

const fn column(head: &'static str, rank: u8) -> Column {
    Column { head, right: false, rank }
}

const fn number(head: &'static str, rank: u8) -> Column {
    Column { head, right: true, rank }
}

/// What is left out first has the highest rank.
const COLUMNS: [Column; 14] = [
    number("ID", 1),
    column("NAME", 0),
    number("SLOT", 2),
    number("PID", 4),
    column("NAMESPACE", 8),
    column("VERSION", 10),
    column("POLICY", 11),
    column("WORKERS", 0),
    column("STATUS", 0),
    number("RESTARTS", 5),
    number("UPTIME", 6),
    number("CPU", 7),
    number("MEMORY", 3),
    column("PORTS", 9),
];

/// A row for each application; and, unless it is to be short or there is too little room, one for each of its workers and
/// for each slot that waits for one.
pub(crate) fn table(apps: &[Description], short: bool, screen: Screen) -> String {
    let short = short || screen.width.is_some_and(|columns| columns < NARROW);
    let common = |app: &Description| matches!(app.namespace.as_str(), "" | "default");
    let grouped = !screen.is_terminal() || !apps.iter().all(common);
    let rows = apps.iter().flat_map(|app| {
        let workers = if short { Vec::new() } else { workers(app, screen.is_terminal()) };
        std::iter::once(row(app, grouped)).chain(workers)
    });
    render(&COLUMNS, &rows.collect::<Vec<_>>(), screen)
}

/// What somebody runs in a foreground has no number.
fn id(app: &Description) -> Cell {
    Cell::new(if app.foreground { String::new() } else { app.id.to_string() })
}

fn row(app: &Description, grouped: bool) -> Vec<Cell> {
    let state = status(app);
    let runs = tells(app);
    let of_running = |text: String| Cell::new(if runs { text } else { String::new() });
    vec![
        id(app),
        Cell::words(&app.name).style(Style::Bold),
        Cell::default(),
        Cell::new(app.primary_pid.map(|pid| pid.to_string()).unwrap_or_default()),
        Cell::words(if grouped { namespace(app) } else { "" }),
        Cell::words(app.program_version.as_deref().unwrap_or_default()),
        Cell::words(&app.policy),
        of_running(if app.wanted > 0 {
            format!("{}/{}", app.ready, app.wanted)
        } else {
            String::new()
        }),
        Cell::words(state.word()).style(style(state)),
        of_running(restarts(app).to_string()),
        of_running(time(app.uptime_ms)),
        of_running(cpu(cpu_of(app))),
        of_running(Some(memory_of(app)).filter(|bytes| *bytes > 0).map(memory).unwrap_or_default()),
        ports(app),
    ]
}

/// Whether it is its primary that told this.
pub(crate) fn tells(app: &Description) -> bool {
    let silent = matches!(status(app), Status::NotAnswering | Status::Orphaned | Status::Stopped);
    app.primary_pid.is_some() && !silent
}

fn namespace(app: &Description) -> &str {
    if app.namespace.is_empty() { "default" } else { &app.namespace }
}

/// How a status looks.
pub(crate) const fn style(status: Status) -> Style {
    match status {
        Status::Online => Style::Good,
        Status::Starting | Status::Reloading | Status::Waiting | Status::Stopping => Style::Busy,
        Status::CrashLoop | Status::Errored | Status::Orphaned | Status::NotAnswering => Style::Bad,
        Status::Ended | Status::Stopped => Style::Dim,
    }
}

fn ports(app: &Description) -> Cell {
    let all: Vec<&str> = app.ports.iter().map(|port| port.address.as_str()).collect();
    let shown = all.iter().take(PORTS).copied().collect::<Vec<_>>().join(" ");
    let more = all.len().saturating_sub(PORTS);
    let text = if more > 0 { format!("{shown} +{more}") } else { shown };
    Cell::new(text).word(all.join(","))
}

/// Its own number, or its workers' from a primary that does not count.
pub(crate) fn restarts(app: &Description) -> u64 {
    let workers = app.workers.iter().filter(|worker| worker.state != "draining");
    let counted = workers.map(|worker| worker.restarts);
    let all = counted.chain(app.waiting.iter().map(|slot| slot.restarts)).sum();
    if app.restarts > 0 { app.restarts } else { all }
}

pub(crate) fn memory_of(app: &Description) -> u64 {
    let all = app.workers.iter().filter_map(|worker| worker.memory_bytes).sum();
    if app.memory_bytes > 0 { app.memory_bytes } else { all }
}

pub(crate) fn cpu_of(app: &Description) -> f64 {
    let all = app.workers.iter().filter_map(|worker| worker.cpu_percent);
    if app.cpu_percent > 0.0 { app.cpu_percent } else { all.fold(0.0, |sum, one| sum + one) }
}

/// A row for each worker and for each slot that waits, by slot.
fn workers(app: &Description, terminal: bool) -> Vec<Vec<Cell>> {
    // Elsewhere each row tells whose it is.
    let [id, name] = match terminal {
        true => [Cell::default(), Cell::default()],
        false => [id(app), Cell::words(&app.name)],
    };
    let blank = |n: usize| std::iter::repeat_n(Cell::default(), n);
    let mut rows: Vec<(u32, Vec<Cell>)> = Vec::new();
    for worker in &app.workers {
        let mut row = vec![id.clone(), name.clone(), Cell::new(worker.slot.to_string())];
        row.push(Cell::new(worker.pid.map(|pid| pid.to_string()).unwrap_or_default()));
        row.extend(blank(4));
        row.extend([
            Cell::words(&worker.state).style(worker_style(&worker.state)),
            Cell::new(worker.restarts.to_string()),
            Cell::new(time(worker.age_ms)),
            Cell::new(worker.cpu_percent.map(cpu).unwrap_or_default()),
            Cell::new(worker.memory_bytes.map(memory).unwrap_or_default()),
        ]);
        rows.push((worker.slot, row));
    }
    for slot in &app.waiting {
        let mut row = vec![id.clone(), name.clone(), Cell::new(slot.slot.to_string())];
        row.extend(blank(5));
        let waits = Cell::new(format!("waits {}", time(slot.wait_ms))).word("waits");
        row.extend([waits.style(Style::Busy), Cell::new(slot.restarts.to_string())]);
        rows.push((slot.slot, row));
    }
    rows.sort_by_key(|(slot, _)| *slot);
    let dimmed = |row: Vec<Cell>| row.into_iter().map(|cell| cell.or_style(Style::Dim)).collect();
    rows.into_iter().map(|(_, row)| dimmed(row)).collect()
}

/// One that serves is as it should be; what is not stands out.
fn worker_style(state: &str) -> Style {
    match state {
        "listening" => Style::Dim,
        "killed" => Style::Bad,
        _ => Style::Busy,
    }
}

/// The workers of one application, for its description.
pub(crate) fn of_one(app: &Description, screen: Screen) -> String {
    const COLUMNS: [Column; 9] = [
        number("SLOT", 0),
        number("WORKER", 4),
        number("PID", 0),
        column("STATE", 0),
        number("UPTIME", 2),
        number("RESTARTS", 1),
        number("CPU", 3),
        number("MEMORY", 0),
        number("RELOAD", 5),
    ];
    let mut rows: Vec<(u32, Vec<Cell>)> = Vec::new();
    for worker in &app.workers {
        let cells = vec![
            Cell::new(worker.slot.to_string()),
            Cell::new(worker.id.to_string()),
            Cell::new(worker.pid.map(|pid| pid.to_string()).unwrap_or_default()),
            Cell::words(&worker.state).style(match worker.state.as_str() {
                "listening" => Style::Good,
                state => worker_style(state),
            }),
            Cell::new(time(worker.age_ms)),
            Cell::new(worker.restarts.to_string()),
            Cell::new(worker.cpu_percent.map(cpu).unwrap_or_default()),
            Cell::new(worker.memory_bytes.map(memory).unwrap_or_default()),
            Cell::new(worker.generation.to_string()),
        ];
        rows.push((worker.slot, cells));
    }
    for slot in &app.waiting {
        let mut row = vec![Cell::new(slot.slot.to_string()), Cell::default(), Cell::default()];
        row.push(
            Cell::new(format!("waits {}", time(slot.wait_ms))).word("waits").style(Style::Busy),
        );
        row.extend([Cell::default(), Cell::new(slot.restarts.to_string())]);
        rows.push((slot.slot, row));
    }
    rows.sort_by_key(|(slot, _)| *slot);
    let rows: Vec<Vec<Cell>> = rows.into_iter().map(|(_, row)| row).collect();
    render(&COLUMNS, &rows, screen)
}

/// An order of applications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sort {
    field: Field,
    descending: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Field {
    #[default]
    Id,
    Name,
    Namespace,
    Status,
    Restarts,
    Uptime,
    Cpu,
    Memory,
}

/// What a field is called; the first name of each is the one that is told.
const FIELDS: [(&str, Field); 11] = [
    ("id", Field::Id),
    ("name", Field::Name),
    ("namespace", Field::Namespace),
    ("status", Field::Status),
    ("restarts", Field::Restarts),
    ("uptime", Field::Uptime),
    ("cpu", Field::Cpu),
    ("memory", Field::Memory),
    // As pm2's users and its JSON have it.
    ("state", Field::Status),
    ("mem", Field::Memory),
    ("pm_id", Field::Id),
];

impl FromStr for Sort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, order) = text.split_once(':').unwrap_or((text, "asc"));
        let descending = match order {
            "asc" => false,
            "desc" => true,
            _ => return Err("the order is asc or desc".into()),
        };
        let found = FIELDS.iter().find(|(name, _)| *name == field);
        let names: Vec<&str> = FIELDS.iter().take(8).map(|(name, _)| *name).collect();
        let meant = super::words::nearest(field, names.iter().copied());
        let hint = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        let unknown = || format!("there are {}{hint}", names.join(", "));
        found.map(|(_, field)| Self { field: *field, descending }).ok_or_else(unknown)
    }
}

impl Sort {
    /// Puts them in order; what is equal, by id and name.
    pub(crate) fn sort(self, apps: &mut [impl AsRef<Description>]) {
        apps.sort_by(|a, b| {
            let (a, b) = (a.as_ref(), b.as_ref());
            let order = self.field.compare(a, b);
            let order = if self.descending { order.reverse() } else { order };
            order.then_with(|| a.id.cmp(&b.id)).then_with(|| a.name.cmp(&b.name))
        });
    }
}

impl Field {
    fn compare(self, a: &Description, b: &Description) -> Ordering {
        match self {
            Self::Id => a.id.cmp(&b.id),
            Self::Name => a.name.cmp(&b.name),
            Self::Namespace => namespace(a).cmp(namespace(b)),
            Self::Status => status(a).cmp(&status(b)),
            Self::Restarts => restarts(a).cmp(&restarts(b)),
            Self::Uptime => a.uptime_ms.cmp(&b.uptime_ms),
            Self::Cpu => cpu_of(a).total_cmp(&cpu_of(b)),
            Self::Memory => memory_of(a).cmp(&memory_of(b)),
        }
    }
}
