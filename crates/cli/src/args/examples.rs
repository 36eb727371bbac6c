//! Examples beneath the long help.

pub(crate) const START: &str = "\
Examples:
  phalanx start server.js -i max --name shop        one worker per core, behind the port that it listens on
  phalanx start server.js -i 4 -- --title shop      what is after -- is the program's
  phalanx start --name api -i 2 -- uvicorn app:app --port 8000
  phalanx start npm --name web -- run start
  phalanx start phalanx.toml --only shop            an application of a configuration file
  phalanx start shop                                one that was stopped";

pub(crate) const SERVE: &str = "\
Examples:
  phalanx serve                                     the working directory, on port 8080
  phalanx serve dist 3000 --spa -i 2                what is not there is /index.html; two workers
  phalanx serve docs 127.0.0.1:8080 --name docs     for this machine only
  phalanx reload docs                               as any other application";

pub(crate) const LIST: &str = "\
Examples:
  phalanx list                                      all, and their workers
  phalanx ls -m --sort memory:desc                  a line each, the largest first
  phalanx ls --watch                                again every second; q ends
  phalanx list --json | jq -r '.[] | select(.status != \"online\") | .name'
  phalanx list | awk '$3 == \"-\" { print $2, $9 }'   names and statuses

On a terminal that is narrow, columns are left out: POLICY first, then VERSION, PORTS, NAMESPACE, CPU, UPTIME,
RESTARTS, PID, MEMORY; below 60 columns the workers. NO_COLOR leaves out colours, CLICOLOR_FORCE=1 asks for them.
Elsewhere than on a terminal every column is there, and `-` stands for nothing.";

pub(crate) const LOGS: &str = "\
Examples:
  phalanx logs                                      of all applications, and what comes
  phalanx logs shop --lines 200 --err               the last 200 lines of standard error first
  phalanx logs shop --since 10m --grep timeout --no-follow
  phalanx logs shop --json | jq .text";

pub(crate) const RELOAD: &str = "\
Examples:
  phalanx reload shop                               its new code, and what changed in its configuration
  phalanx reload all
  phalanx reload phalanx.toml --env production      with that environment of the file
  phalanx reload shop --update-env                  with this shell's environment

0 only if the new version serves. If it does not come up, the workers that there were go on, and the exit code is 1.";

pub(crate) const DEPLOY: &str = "\
Examples:
  phalanx deploy ecosystem.config.js production setup    once: directories, and a clone
  phalanx deploy production                              what `ref` is now, then post-deploy
  phalanx deploy production v1.4.2                       a branch, a tag or a commit
  phalanx deploy production revert 1                     the deployment before this one
  phalanx deploy production exec 'phalanx list'

0 only if everything is done on all hosts. What fails is the end: it is said where, in which step, and what was done before.";
