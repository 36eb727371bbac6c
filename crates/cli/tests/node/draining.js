// Answers slowly, without an end, and keeps its process alive, as it is told to.
const http = require('http');

const { HANDLER, TIMER, KEEP_ALIVE } = process.env;
const pid = () => JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) });
const server = http.createServer((request, response) => {
  if (request.url === '/events') {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', Connection: 'keep-alive' });
    response.write(`data: ${process.pid}\n\n`);
    setInterval(() => response.write('data: more\n\n'), 100).unref();
    return;
  }
  const answer = () => {
    response.setHeader('Content-Length', pid().length);
    response.end(pid());
  };
  if (request.url !== '/drained') {
    return void setTimeout(answer, Number(new URL(request.url, 'http://x').searchParams.get('ms') ?? 0));
  }
  // When the worker was told to leave.
  const look = setInterval(() => {
    if (server.listening) return;
    clearInterval(look);
    answer();
  }, 20);
});
if (KEEP_ALIVE) server.keepAliveTimeout = Number(KEEP_ALIVE);
server.listen(process.env.PORT, '127.0.0.1');

if (TIMER) setInterval(() => {}, 1000);
if (HANDLER) {
  process.on(HANDLER, () => {
    console.error(`handler of ${HANDLER}`);
    server.close((error) => setTimeout(() => process.exit(error ? 8 : 7), 100));
  });
}
