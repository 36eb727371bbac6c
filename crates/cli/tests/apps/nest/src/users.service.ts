import { Injectable } from '@nestjs/common';

export interface User {
  id: string;
  verbose?: string;
}

@Injectable()
export class UsersService {
  find(id: string, verbose?: string): User {
    return { id, verbose };
  }
}
