// NestJS with TypeORM: a module, a service and a controller, DTOs by class-validator.
import 'reflect-metadata';
import {
  Body, ConflictException, Controller, Get, HttpCode, Injectable, Module, NotFoundException,
  Param, ParseIntPipe, Patch, Post, Query, ValidationPipe,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import { Type } from 'class-transformer';
import { IsEmail, IsInt, IsOptional, IsString, Length, Max, MaxLength, Min } from 'class-validator';
import { Column, CreateDateColumn, Entity, PrimaryGeneratedColumn, Repository } from 'typeorm';

@Entity('users')
class User {
  @PrimaryGeneratedColumn({ type: 'bigint' })
  id: string;

  @Column({ unique: true })
  email: string;

  @Column()
  name: string;

  @Column({ type: 'varchar', nullable: true })
  bio: string | null;

  @CreateDateColumn({ type: 'timestamptz' })
  created_at: Date;
}

class CreateUserDto {
  @IsEmail() @MaxLength(255)
  email: string;

  @IsString() @Length(1, 100)
  name: string;

  @IsOptional() @IsString() @MaxLength(1000)
  bio?: string | null;
}

class UpdateUserDto {
  @IsOptional() @IsEmail() @MaxLength(255)
  email?: string;

  @IsOptional() @IsString() @Length(1, 100)
  name?: string;

  @IsOptional() @IsString() @MaxLength(1000)
  bio?: string | null;
}

class PageDto {
  @IsOptional() @Type(() => Number) @IsInt() @Min(1) @Max(100)
  limit = 100;

  @IsOptional() @Type(() => Number) @IsInt() @Min(0)
  offset = 0;
}

@Injectable()
class UsersService {
  constructor(@InjectRepository(User) private readonly users: Repository<User>) {}

  list(page: PageDto) {
    return this.users.find({ order: { id: 'ASC' }, take: page.limit, skip: page.offset });
  }

  async read(id: string) {
    const user = await this.users.findOneBy({ id });
    if (!user) throw new NotFoundException();
    return user;
  }

  async create(data: CreateUserDto) {
    try {
      return await this.users.save(this.users.create(data));
    } catch (error: any) {
      if (error.driverError?.code === '23505') throw new ConflictException();
      throw error;
    }
  }

  async update(id: string, data: UpdateUserDto) {
    const user = await this.users.preload({ id, ...data });
    if (!user) throw new NotFoundException();
    return this.users.save(user);
  }
}

// A bigint arrives as text; the answer shows a number, as everywhere else.
const shown = (user: User) => ({ ...user, id: Number(user.id) });

@Controller('users')
class UsersController {
  constructor(private readonly users: UsersService) {}

  @Get()
  async list(@Query() page: PageDto) {
    return (await this.users.list(page)).map(shown);
  }

  @Get(':id')
  async read(@Param('id', ParseIntPipe) id: number) {
    return shown(await this.users.read(String(id)));
  }

  @Post()
  @HttpCode(201)
  async create(@Body() data: CreateUserDto) {
    return shown(await this.users.create(data));
  }

  @Patch(':id')
  async update(@Param('id', ParseIntPipe) id: number, @Body() data: UpdateUserDto) {
    return shown(await this.users.update(String(id), data));
  }
}

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: process.env.DATABASE_URL,
      entities: [User],
      poolSize: 10,
    }),
    TypeOrmModule.forFeature([User]),
  ],
  controllers: [UsersController],
  providers: [UsersService],
})
class AppModule {}

const app = await NestFactory.create(AppModule, { logger: ['error', 'warn'] });
app.useGlobalPipes(new ValidationPipe({ whitelist: true, transform: true }));
app.enableShutdownHooks();
await app.listen(Number(process.env.PORT), '127.0.0.1');
