// The same as server.js, with Fastify.
const body = { pid: process.pid };
const app = require('fastify')();

app.get('/', () => body);
app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' });
