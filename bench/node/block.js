// An empty handler, but for one path: `/block?5000` says that it begins, and then keeps the whole process
// busy for so many milliseconds.
const body = JSON.stringify({ pid: process.pid });

const spin = (milliseconds) => {
  const end = process.hrtime.bigint() + BigInt(milliseconds) * 1000000n;
  while (process.hrtime.bigint() < end);
};

require('http')
  .createServer((request, response) => {
    const [path, milliseconds] = request.url.split('?');
    if (path !== '/block') return response.end(body);
    // For nginx, which would keep the word to itself until the end.
    response.setHeader('X-Accel-Buffering', 'no');
    response.write('blocked\n', () => { spin(milliseconds); response.end(body); });
  })
  .listen(process.env.PORT, '127.0.0.1');
