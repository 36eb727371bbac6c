// Messages between worker and primary, measured in the worker, which prints a line of JSON for each way and size.
//
//   node messages.js            Node's own primary, and this as its worker
//   node messages.js PROGRAM    Node's own primary, and that program as its worker
//
// and under any other primary that answers as this one does. COUNTS has `SIZE:COUNT` of messages, with commas between.
const cluster = require('cluster');
const fs = require('fs');

// Messages without an answer at a time, and bytes of them.
const OUTSTANDING = 64;
const MOST = 4_000_000;

if (cluster.isPrimary) primary();
else worker();

function primary() {
  const [program] = process.argv.slice(2);
  // What Node forks is itself; a program that speaks its protocol may stand in.
  if (program) process.execPath = require('path').resolve(program);
  const worker = cluster.fork();
  worker.on('message', (message) => {
    if (message.echo !== undefined) worker.send(message);
    else if (message.mark !== undefined) worker.send(message);
    else if (message.flood !== undefined) {
      const [count, size] = message.flood;
      flood((one, sent) => worker.send(one, sent), body('flood', size), count);
    }
  });
}

async function worker() {
  let heard = () => {};
  process.on('message', (message) => heard(message));
  const send = (one, sent) => process.send(one, sent);

  const echoes = (size, count, outstanding) =>
    new Promise((done) => {
      const message = body('echo', size);
      let sent = Math.min(outstanding, count);
      let came = 0;
      heard = () => {
        came += 1;
        if (came === count) done();
        else if (sent < count) {
          sent += 1;
          send(message);
        }
      };
      for (let n = 0; n < sent; n++) send(message);
    });
  const up = (size, count) =>
    new Promise((done) => {
      heard = done;
      flood(send, body('sink', size), count, () => send({ mark: 0 }));
    });
  const down = (size, count) =>
    new Promise((done) => {
      let came = 0;
      heard = () => {
        came += 1;
        if (came === count) done();
      };
      send({ flood: [count, size] });
    });
  const ways = {
    one: (size, count) => echoes(size, count, 1),
    many: (size, count) => echoes(size, count, Math.min(OUTSTANDING, MOST / size)),
    up,
    down,
  };

  for (const pair of process.env.COUNTS.split(',')) {
    const [size, count] = pair.split(':').map(Number);
    for (const [way, run] of Object.entries(ways)) {
      await run(size, Math.ceil(count / 5));
      const before = [cpu(process.pid), cpu(process.ppid)];
      const began = process.hrtime.bigint();
      await run(size, count);
      const seconds = Number(process.hrtime.bigint() - began) / 1e9;
      const spent = [cpu(process.pid) - before[0], cpu(process.ppid) - before[1]];
      console.log(JSON.stringify({ size, way, count, seconds, worker: spent[0], primary: spent[1] }));
    }
  }
  console.log('done');
}

// A message whose line has so many bytes.
function body(kind, size) {
  return { [kind]: 'x'.repeat(Math.max(0, size - kind.length - 8)) };
}

// So many messages, of which so many at most were not written yet.
function flood(send, message, count, done = () => {}) {
  let begun = 0;
  let written = 0;
  const more = () => {
    while (begun < count && begun - written < OUTSTANDING) {
      begun += 1;
      send(message, () => {
        written += 1;
        if (written === count) done();
        else more();
      });
    }
  };
  more();
}

// Seconds on a CPU, of all threads.
function cpu(pid) {
  let spent = 0;
  for (const thread of fs.readdirSync(`/proc/${pid}/task`)) {
    spent += Number(fs.readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
  }
  return spent / 1e9;
}
