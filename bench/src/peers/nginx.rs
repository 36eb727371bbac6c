//! nginx in front of Node processes that have a port each.

use super::reload::Process;
use super::{Job, Peer, Reload, Serving, node, typed};
use crate::setup;
use bench::spawned::Guarded;
use bench::wait;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

/// nginx as the manager, a process for each worker behind it.
pub(crate) fn nginx() -> Peer {
    let needs = || setup::nginx().and_then(|_| setup::node());
    Peer::new("nginx", needs, |_, job, address| {
        let place = setup::scratch()?.join(format!("nginx-{}", address.port()));
        let behind: Vec<SocketAddr> = (0..job.workers)
            .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, wait::free_port())))
            .collect();
        let file = place.join("nginx.conf");
        fs::create_dir(&place)
            .and_then(|()| fs::write(&file, configuration(&place, address, &behind)))
            .map_err(|error| format!("{}: {error}", place.display()))?;
        let mut command = Command::new(setup::nginx()?);
        // Until its configuration is read, it would complain about a log of the system's.
        command.args(["-e", "stderr"]).arg("-p").arg(&place).arg("-c").arg(&file);
        let mut serving = Serving::of(&mut command, address, true)?;
        let processes = behind.into_iter().map(|at| start(&mut serving, job, at));
        let processes = processes.collect::<Result<Vec<_>, _>>()?;
        let command = format!("nginx, and {} × node bench/node/{}", job.workers, job.app);
        Ok(Serving { proxy: true, command, reload: Reload::Each(processes), ..serving })
    })
}

fn start(serving: &mut Serving, job: &Job, address: SocketAddr) -> Result<Process, String> {
    let job = job.clone();
    let start = move || node::plain(&job, address.port());
    let mut command = start();
    let started = Guarded::spawn(&mut command);
    serving.guarded.push(started.map_err(|e| format!("cannot start {}: {e}", typed(&command)))?);
    Ok(Process { guarded: serving.guarded.len() - 1, address, start: Box::new(start) })
}

/// As its documentation advises it for many requests: connections are kept on both sides, and nothing is logged. A
/// server that failed is asked again at once (`max_fails=0`): by default it is left out for 10 s, and when each of them
/// has been restarted within that time nobody is left, and every request is answered with 502.
fn configuration(place: &Path, address: SocketAddr, behind: &[SocketAddr]) -> String {
    let place = place.display();
    let servers: String =
        behind.iter().map(|one| format!("        server {one} max_fails=0;\n")).collect();
    format!(
        "daemon off;
worker_processes auto;
pid {place}/pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000;
    client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
    uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
    upstream app {{
{servers}        keepalive 64;
        keepalive_requests 1000000;
    }}
    server {{
        listen {address};
        location / {{
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_pass http://app;
        }}
    }}
}}
"
    )
}
