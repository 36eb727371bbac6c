import { Body, Controller, Get, Param, Post, Query, StreamableFile } from '@nestjs/common';
import { Readable } from 'node:stream';
import { type User, UsersService } from './users.service.js';

@Controller()
export class AppController {
  // Found by its type: this needs the metadata that the compiler emits.
  constructor(private readonly users: UsersService) {}

  @Get()
  hello() {
    return { hello: 'nest', pid: process.pid };
  }

  @Get('users/:id')
  user(@Param('id') id: string, @Query('verbose') verbose?: string): User {
    return this.users.find(id, verbose);
  }

  @Post('echo')
  echo(@Body() body: unknown): unknown {
    return body;
  }

  @Get('stream')
  stream(): StreamableFile {
    const lines = Array.from({ length: 200 }, (_, n) => Buffer.from(`line ${n + 1}\n`));
    return new StreamableFile(Readable.from(lines));
  }

  @Get('error')
  fail(): never {
    throw new Error('on purpose');
  }
}
