import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import type { NextFunction, Request, Response } from 'express';
import { AppModule } from './app.module.js';

const app = await NestFactory.create(AppModule, { logger: ['error', 'warn'] });
app.use((_request: Request, response: Response, next: NextFunction) => {
  response.set('X-Worker', String(process.pid));
  next();
});
// Also runs onApplicationShutdown() of the services when the process is told to stop.
app.enableShutdownHooks();
await app.listen(Number(process.env.PORT), '127.0.0.1');
