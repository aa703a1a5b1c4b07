"""Invoicing: customers, products with tags, invoices with lines, and projects, each seen by its owner alone."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from annotated_types import Interval, MaxLen, MinLen
from fastapi import Depends, HTTPException, Query, Request, Response
from pydantic import AfterValidator, StringConstraints, model_validator
from sqlalchemy import CheckConstraint, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, selectinload
from sqlmodel import Field, Relationship, SQLModel, col, select

from nutshell.access import get_caller
from nutshell.app import create_app
from nutshell.columns import JSON_TEXT, MONEY, Json, Money, Price, allow_only
from nutshell.conditional import IfMatchDep
from nutshell.database import SessionDep, SnapshotDep
from nutshell.errors import Refused
from nutshell.fields import (
    BIGINT,
    LEFT_OUT,
    NEVER_REUSE_IDS,
    REFUSE_UNKNOWN,
    Day,
    Email,
    Id,
    Read,
    Reference,
    Text,
    Update,
    Uuid,
    UuidId,
    example,
    left_out,
    now,
    uuid7,
)
from nutshell.paging import Filter, UuidFilter
from nutshell.routes import ReplyDep


def require_letter(name: str) -> str:
    """A rule that JSON Schema cannot say: rows.py has it in OWN_RULES."""
    if not any(letter.isalpha() for letter in name):
        raise ValueError("a name has a letter")
    return name


Name = Annotated[Text, MinLen(1), MaxLen(100), AfterValidator(require_letter)]
Credit = Annotated[Price, Interval(le=Decimal("5000.00"))]
Sku = Annotated[str, StringConstraints(max_length=20, pattern="^[A-Z0-9]+$")]
Quantity = Annotated[int, Interval(ge=1, le=1000)]
State = Literal["draft", "sent"]


class CustomerBase(SQLModel):
    email: Email = Field(unique=True, schema_extra={"examples": ["ada@example.com"]})
    name: Name = Field(schema_extra={"examples": ["Ada"]})
    credit: Credit = Field(default=Decimal("0.00"), sa_type=MONEY)
    details: Json | None = Field(
        default=None, sa_type=JSON_TEXT, schema_extra={"examples": [{"key": "value"}]}
    )


class Customer(CustomerBase, table=True):
    """Its id tells nothing. `updated_at` changes by itself."""

    __tablename__ = "customers"

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    owner: str = Field(index=True, max_length=100)
    updated_at: datetime = Field(default_factory=now, sa_column_kwargs={"onupdate": now})


class CustomerCreate(CustomerBase):
    model_config = REFUSE_UNKNOWN


class CustomerRead(Read):
    id: UUID
    email: str
    name: str
    credit: Price
    details: Any
    updated_at: datetime


class CustomerUpdate(Update[CustomerRead]):
    model_config = example(name="Ada King")

    email: Email = LEFT_OUT
    name: Name = LEFT_OUT
    credit: Credit = LEFT_OUT
    details: Json | None = None


class CustomerFilter(UuidFilter):
    sort: Literal["id", "email"] = "id"


class ProductTag(SQLModel, table=True):
    __tablename__ = "product_tags"

    product_id: int | None = Field(
        primary_key=True, foreign_key="products.id", ondelete="CASCADE", sa_type=BIGINT
    )
    tag_id: int | None = Field(
        primary_key=True, foreign_key="tags.id", ondelete="CASCADE", sa_type=BIGINT, index=True
    )


class Tag(SQLModel, table=True):
    __tablename__ = "tags"
    __table_args__ = NEVER_REUSE_IDS

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    name: str = Field(unique=True, max_length=100)


class TagCreate(SQLModel):
    model_config = REFUSE_UNKNOWN

    name: Name = Field(schema_extra={"examples": ["heavy"]})


class TagRead(Read):
    id: int
    name: str


class Product(SQLModel, table=True):
    """Its path has its natural key. The id is for lists and references."""

    __tablename__ = "products"
    __table_args__ = (
        CheckConstraint("price >= 0", "price_not_negative"),
        Index(None, "price", "id"),
        NEVER_REUSE_IDS,
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    sku: str = Field(unique=True, max_length=20)
    price: Money = Field(sa_type=MONEY)
    tags: Mapped[list[Tag]] = Relationship(link_model=ProductTag, sa_relationship_kwargs={})


class ProductCreate(SQLModel):
    model_config = REFUSE_UNKNOWN

    price: Money = Field(schema_extra={"examples": ["19.90"]})


class ProductRead(Read):
    id: int
    sku: str
    price: Money
    tags: list[TagRead]


class ProductUpdate(Update[ProductRead]):
    model_config = example(price="9.90")

    price: Money = LEFT_OUT


class ProductFilter(Filter):
    sort: Literal["id", "price", "sku"] = "id"
    price: Money = LEFT_OUT


class LineBase(SQLModel):
    product_id: Reference = Field(foreign_key="products.id", sa_type=BIGINT, index=True)
    quantity: Quantity = Field(schema_extra={"examples": [2]})


class Line(LineBase, table=True):
    __tablename__ = "invoice_lines"
    __table_args__ = (UniqueConstraint("invoice_id", "position"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    invoice_id: int | None = Field(
        default=None, foreign_key="invoices.id", ondelete="CASCADE", sa_type=BIGINT
    )
    position: int


class LineCreate(LineBase):
    model_config = REFUSE_UNKNOWN


class LineRead(Read):
    id: int
    position: int
    product_id: int
    quantity: int


class InvoiceBase(SQLModel):
    customer_id: Uuid = Field(foreign_key="customers.id")
    number: Quantity = Field(schema_extra={"examples": [1]})
    issued_on: Day = Field(schema_extra={"examples": ["2030-01-01"]})
    due_on: Day = Field(schema_extra={"examples": ["2030-01-31"]})
    discount: Money = Field(
        default=Decimal("0.00"), sa_type=MONEY, schema_extra={"examples": ["0.00"]}
    )


class Invoice(InvoiceBase, table=True):
    __tablename__ = "invoices"
    __table_args__ = (
        UniqueConstraint("customer_id", "number"),
        CheckConstraint("due_on >= issued_on", "due_after_issued"),
        allow_only("state", State),
        Index(None, "due_on", "id"),
        NEVER_REUSE_IDS,
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    state: str = Field(default="draft", sa_type=String)
    sent_at: datetime | None = None
    lines: Mapped[list[Line]] = Relationship(
        passive_deletes="all", sa_relationship_kwargs={"order_by": "Line.position"}
    )


class InvoiceCreate(InvoiceBase):
    model_config = REFUSE_UNKNOWN

    lines: Annotated[list[LineCreate], MinLen(1), MaxLen(50)]

    @model_validator(mode="after")
    def check_period(self) -> Self:
        if self.due_on < self.issued_on:
            raise ValueError("due_on is before issued_on")
        return self


class InvoiceRead(Read):
    id: int
    customer_id: UUID
    number: int
    issued_on: date
    due_on: date
    discount: Money
    state: str
    sent_at: datetime | None
    lines: list[LineRead]


class InvoiceUpdate(Update[InvoiceRead]):
    model_config = example(discount="1.00")

    number: Quantity = LEFT_OUT
    issued_on: Day = LEFT_OUT
    due_on: Day = LEFT_OUT
    discount: Money = LEFT_OUT


class InvoiceFilter(Filter):
    sort: Literal["id", "due_on", "customer_id"] = "id"
    customer_id: Uuid = LEFT_OUT
    state: State = left_out()


class Project(SQLModel, table=True):
    """A deleted one is kept, and shown to nobody."""

    __tablename__ = "projects"
    __table_args__ = (Index(None, "customer_id", "id"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    title: str = Field(max_length=100)
    customer_id: UUID | None = Field(default=None, foreign_key="customers.id", ondelete="SET NULL")
    parent_id: int | None = Field(
        default=None, foreign_key="projects.id", sa_type=BIGINT, index=True
    )
    deleted_at: datetime | None = None


class ProjectCreate(SQLModel):
    model_config = REFUSE_UNKNOWN

    title: Name = Field(schema_extra={"examples": ["Engine"]})
    customer_id: Uuid | None = None
    parent_id: Reference | None = None


class ProjectRead(Read):
    id: int
    title: str
    customer_id: UUID | None
    parent_id: int | None


class ProjectUpdate(Update[ProjectRead]):
    model_config = example(title="Engine 2")

    title: Name = LEFT_OUT
    customer_id: Uuid | None = None


class ProjectFilter(Filter):
    sort: Literal["id", "customer_id"] = "id"


CALLERS = {"adas-key": "ada", "graces-key": "grace"}


def check(request: Request) -> str:
    if caller := CALLERS.get(request.headers.get("x-key", "")):
        return caller
    raise HTTPException(401, "Send your key in X-Key.")


CallerDep = Annotated[str, Depends(get_caller)]

app = create_app(
    "Invoicing",
    summary="For a test.",
    check=check,
    security_schemes={"Key": {"type": "apiKey", "in": "header", "name": "X-Key"}},
)


# Customers: each caller sees their own


@app.get("/customers", response_model=list[CustomerRead])
async def list_customers(
    filters: Annotated[CustomerFilter, Query()],
    session: SessionDep,
    reply: ReplyDep,
    caller: CallerDep,
) -> Sequence[Any]:
    """Lists the caller's customers."""
    query = filters.select(Customer, CustomerRead).where(col(Customer.owner) == caller)
    return await reply.page(session, query, filters)


@app.post("/customers", response_model=CustomerRead, status_code=201)
async def create_customer(
    data: CustomerCreate, session: SessionDep, answer: Response, caller: CallerDep
) -> Customer:
    """Creates a customer of the caller."""
    customer = Customer.model_validate(data, update={"owner": caller})
    session.add(customer)
    await session.commit()
    answer.headers["Location"] = f"/customers/{customer.id}"
    return customer


def own(customer_id: UUID, caller: str) -> Any:
    return select(Customer).where(Customer.id == customer_id, Customer.owner == caller)


@app.get("/customers/{customer_id}", response_model=CustomerRead)
async def read_customer(customer_id: UuidId, session: SessionDep, caller: CallerDep) -> Any:
    """Reads one of the caller's customers."""
    return (await session.exec(own(customer_id, caller))).one()


@app.patch("/customers/{customer_id}", response_model=CustomerRead)
async def update_customer(
    customer_id: UuidId,
    data: CustomerUpdate,
    session: SessionDep,
    if_match: IfMatchDep,
    caller: CallerDep,
) -> Any:
    """Changes only the fields sent."""
    customer = (await session.exec(own(customer_id, caller).with_for_update())).one()
    if_match.check(CustomerRead, customer)
    customer.sqlmodel_update(data.changes(customer))
    await session.commit()
    return customer


@app.delete("/customers/{customer_id}", status_code=204)
async def delete_customer(
    customer_id: UuidId, session: SessionDep, if_match: IfMatchDep, caller: CallerDep
) -> None:
    """Deletes a customer without invoices."""
    customer = (await session.exec(own(customer_id, caller).with_for_update())).one()
    if_match.check(CustomerRead, customer)
    await session.delete(customer)
    await session.commit()


# Tags: a list and a POST, and no more


@app.get("/tags", response_model=list[TagRead])
async def list_tags(
    filters: Annotated[Filter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Any]:
    """Lists tags."""
    return await reply.page(session, filters.select(Tag, TagRead), filters)


@app.post("/tags", response_model=TagRead, status_code=201)
async def create_tag(data: TagCreate, session: SessionDep, answer: Response) -> Tag:
    """Creates a tag."""
    tag = Tag.model_validate(data)
    session.add(tag)
    await session.commit()
    answer.headers["Location"] = f"/tags/{tag.id}"
    return tag


# Products: PUT creates or changes them


WITH_TAGS = selectinload(Product.tags)


def by_sku(sku: str) -> Any:
    return select(Product).where(Product.sku == sku).options(WITH_TAGS)


@app.get("/products", response_model=list[ProductRead])
async def list_products(
    filters: Annotated[ProductFilter, Query()], session: SnapshotDep, reply: ReplyDep
) -> Sequence[Any]:
    """Lists products, with their tags."""
    query = filters.select(Product, ProductRead).options(WITH_TAGS)
    if filters.price is not None:
        query = query.where(col(Product.price) == filters.price)
    return await reply.page(session, query, filters)


@app.get("/products/{sku}", response_model=ProductRead)
async def read_product(sku: Sku, session: SnapshotDep) -> Any:
    """Reads one product, with its tags."""
    return (await session.exec(by_sku(sku))).one()


@app.put("/products/{sku}", response_model=ProductRead, responses={201: {"model": ProductRead}})
async def put_product(
    sku: Sku, data: ProductCreate, session: SessionDep, if_match: IfMatchDep, answer: Response
) -> Any:
    """Creates the product, or changes it. 409 if another request creates it at the same moment."""
    product = (await session.exec(by_sku(sku).with_for_update())).one_or_none()
    if product is None:
        product = Product.model_validate(data, update={"sku": sku})
        session.add(product)
        answer.status_code = 201
        answer.headers["Location"] = f"/products/{sku}"
    else:
        if_match.check(ProductRead, product)
        product.price = data.price
    await session.commit()
    await session.refresh(product, ["tags"])
    return product


@app.patch("/products/{sku}", response_model=ProductRead)
async def update_product(
    sku: Sku, data: ProductUpdate, session: SessionDep, if_match: IfMatchDep
) -> Any:
    """Changes only the fields sent."""
    product = (await session.exec(by_sku(sku).with_for_update())).one()
    if_match.check(ProductRead, product)
    product.sqlmodel_update(data.changes(product))
    await session.commit()
    return product


@app.put("/products/{sku}/tags", response_model=ProductRead)
async def set_tags(
    sku: Sku, data: Annotated[list[Reference], MaxLen(50)], session: SessionDep
) -> Any:
    """Gives the product these tags, and no others."""
    product = (await session.exec(by_sku(sku).with_for_update())).one()
    product.tags = []
    await session.flush()
    session.add_all([ProductTag(product_id=product.id, tag_id=one) for one in dict.fromkeys(data)])
    await session.flush()
    await session.refresh(product, ["tags"])
    await session.commit()
    return product


@app.put("/products/{sku}/tags/{tag_id}", status_code=204)
async def add_tag(sku: Sku, tag_id: Id, session: SessionDep) -> None:
    """Gives the product a tag. 409 if it has this tag, or there is none."""
    product = (await session.exec(by_sku(sku))).one()
    session.add(ProductTag(product_id=product.id, tag_id=tag_id))
    await session.commit()


@app.delete("/products/{sku}/tags/{tag_id}", status_code=204)
async def remove_tag(sku: Sku, tag_id: Id, session: SessionDep) -> None:
    """Takes a tag from the product."""
    product = (await session.exec(by_sku(sku))).one()
    await session.delete(await session.get_one(ProductTag, (product.id, tag_id)))
    await session.commit()


# Invoices: a parent with children, and states


WITH_LINES = selectinload(Invoice.lines)


@app.get("/invoices", response_model=list[InvoiceRead])
async def list_invoices(
    filters: Annotated[InvoiceFilter, Query()], session: SnapshotDep, reply: ReplyDep
) -> Sequence[Any]:
    """Lists invoices, with their lines."""
    query = filters.select(Invoice, InvoiceRead).options(WITH_LINES)
    if filters.customer_id is not None:
        query = query.where(col(Invoice.customer_id) == filters.customer_id)
    if filters.state is not None:
        query = query.where(col(Invoice.state) == filters.state)
    return await reply.page(session, query, filters)


@app.post("/invoices", response_model=InvoiceRead, status_code=201)
async def create_invoice(data: InvoiceCreate, session: SessionDep, answer: Response) -> Invoice:
    """Creates an invoice with its lines, or neither."""
    lines = [
        Line.model_validate(line, update={"position": position})
        for position, line in enumerate(data.lines)
    ]
    invoice = Invoice.model_validate(data.model_dump(exclude={"lines"}))
    invoice.lines = lines
    session.add(invoice)
    await session.commit()
    answer.headers["Location"] = f"/invoices/{invoice.id}"
    return invoice


@app.get("/invoices/{invoice_id}", response_model=InvoiceRead)
async def read_invoice(invoice_id: Id, session: SnapshotDep) -> Invoice:
    """Reads one invoice, with its lines."""
    return await session.get_one(Invoice, invoice_id, options=[WITH_LINES])


async def lock_draft(session: SessionDep, invoice_id: int) -> Invoice:
    invoice = await session.get_one(Invoice, invoice_id, options=[WITH_LINES], with_for_update=True)
    if invoice.state != "draft":
        raise Refused(409, "this invoice was sent already")
    return invoice


@app.patch("/invoices/{invoice_id}", response_model=InvoiceRead)
async def update_invoice(
    invoice_id: Id, data: InvoiceUpdate, session: SessionDep, if_match: IfMatchDep
) -> Invoice:
    """Changes only the fields sent, of a draft."""
    invoice = await lock_draft(session, invoice_id)
    if_match.check(InvoiceRead, invoice)
    invoice.sqlmodel_update(data.changes(invoice))
    if invoice.due_on < invoice.issued_on:
        raise Refused(422, "this is before the day of issue", loc=("body", "due_on"))
    await session.commit()
    return invoice


@app.post("/invoices/{invoice_id}/send", response_model=InvoiceRead)
async def send_invoice(invoice_id: Id, session: SessionDep, if_match: IfMatchDep) -> Invoice:
    """Sends a draft."""
    invoice = await lock_draft(session, invoice_id)
    if_match.check(InvoiceRead, invoice)
    invoice.state, invoice.sent_at = "sent", now()
    await session.commit()
    return invoice


@app.delete("/invoices/{invoice_id}", status_code=204)
async def delete_invoice(invoice_id: Id, session: SessionDep, if_match: IfMatchDep) -> None:
    """Deletes a draft."""
    invoice = await lock_draft(session, invoice_id)
    if_match.check(InvoiceRead, invoice)
    await session.delete(invoice)
    await session.commit()


# Projects: a deleted one is kept


@app.get("/projects", response_model=list[ProjectRead])
async def list_projects(
    filters: Annotated[ProjectFilter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Any]:
    """Lists projects."""
    query = filters.select(Project, ProjectRead).where(col(Project.deleted_at).is_(None))
    return await reply.page(session, query, filters)


@app.post("/projects", response_model=ProjectRead, status_code=201)
async def create_project(data: ProjectCreate, session: SessionDep, answer: Response) -> Project:
    """Creates a project."""
    project = Project.model_validate(data)
    session.add(project)
    await session.commit()
    answer.headers["Location"] = f"/projects/{project.id}"
    return project


def kept(project_id: int) -> Any:
    return select(Project).where(Project.id == project_id, col(Project.deleted_at).is_(None))


@app.get("/projects/{project_id}", response_model=ProjectRead)
async def read_project(project_id: Id, session: SessionDep) -> Any:
    """Reads one project."""
    return (await session.exec(kept(project_id))).one()


@app.patch("/projects/{project_id}", response_model=ProjectRead)
async def update_project(
    project_id: Id, data: ProjectUpdate, session: SessionDep, if_match: IfMatchDep
) -> Any:
    """Changes only the fields sent."""
    project = (await session.exec(kept(project_id).with_for_update())).one()
    if_match.check(ProjectRead, project)
    project.sqlmodel_update(data.changes(project))
    await session.commit()
    return project


@app.delete("/projects/{project_id}", status_code=204)
async def delete_project(project_id: Id, session: SessionDep, if_match: IfMatchDep) -> None:
    """Deletes a project."""
    project = (await session.exec(kept(project_id).with_for_update())).one()
    if_match.check(ProjectRead, project)
    project.deleted_at = now()
    await session.commit()
