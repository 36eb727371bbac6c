// A server whose behaviour is switched by files in CHAOS_DIR: `crash` (ends while it starts), `slow` (so many
// milliseconds until it listens), `leak.PID` (that worker's memory grows).
const fs = require('fs');
const http = require('http');
const path = require('path');

const said = (name) => {
  try {
    return fs.readFileSync(path.join(process.env.CHAOS_DIR, name), 'utf8');
  } catch {
    return undefined;
  }
};

if (said('crash') !== undefined) {
  console.error('crashes while it starts, as it was told to');
  process.exit(1);
}

// Many times the memory limit; not all of the machine's.
const PIECE = 8 << 20;
const MOST = 40;
const kept = [];
setInterval(() => {
  if (kept.length < MOST && said(`leak.${process.pid}`) !== undefined) kept.push(Buffer.alloc(PIECE, 1));
}, 40).unref();

const answer = JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) });
const server = http.createServer((request, response) => {
  // So that there are always requests in work.
  setTimeout(() => response.end(answer), Math.random() * 8);
});
setTimeout(() => server.listen(process.env.PORT, '127.0.0.1'), Number(said('slow') ?? 0));
