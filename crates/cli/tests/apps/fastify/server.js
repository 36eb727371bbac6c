import { Readable } from 'node:stream';
import Fastify from 'fastify';

const app = Fastify();

app.addHook('onRequest', async (request, reply) => {
  reply.header('X-Worker', String(process.pid));
});

app.get('/', async () => ({ hello: 'fastify', pid: process.pid }));

const user = {
  params: { type: 'object', properties: { id: { type: 'string' } } },
  querystring: { type: 'object', properties: { verbose: { type: 'string' } } },
};
app.get('/users/:id', { schema: user }, async (request) => ({
  id: request.params.id,
  verbose: request.query.verbose,
}));

app.post('/echo', async (request, reply) => {
  reply.code(201);
  return request.body;
});

app.get('/stream', async (request, reply) => {
  const lines = Array.from({ length: 200 }, (_, n) => `line ${n + 1}\n`);
  return reply.type('text/plain').send(Readable.from(lines));
});

app.get('/error', async () => {
  throw new Error('on purpose');
});

await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' });
