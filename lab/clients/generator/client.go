// Every operation, with the client that OpenAPI Generator makes of the document for Go.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"time"

	"nutshell"
)

func require(condition bool, message string) {
	if !condition {
		panic(message)
	}
}

// must returns the data of an answer.
func must[T any](data T, response *http.Response, err error) T {
	if problem, ok := err.(*nutshell.GenericOpenAPIError); ok {
		panic(string(problem.Body()))
	}
	require(err == nil, fmt.Sprint(err))
	return data
}

func done(response *http.Response, err error) {
	must(response, response, err)
}

func expect[T any](status int) func(T, *http.Response, error) {
	return func(_ T, response *http.Response, err error) {
		require(err != nil && response.StatusCode == status, fmt.Sprint(status, err))
	}
}

func main() {
	config := nutshell.NewConfiguration()
	config.Servers[0].URL = os.Args[1]
	config.AddDefaultHeader("Authorization", "Bearer "+os.Args[2])
	client := nutshell.NewAPIClient(config)
	ctx := context.Background()

	must(client.HealthAPI.ReadHealth(ctx).Execute())
	must(client.HealthAPI.ReadReadiness(ctx).Execute())

	users := client.UsersAPI
	ada := *nutshell.NewUserCreate("ada@example.com", "Ada Lovelace")
	user := must(users.CreateUser(ctx).UserCreate(ada).Execute())
	expect[*nutshell.UserRead](409)(users.CreateUser(ctx).UserCreate(ada).Execute())
	read := must(users.ReadUser(ctx, user.Id).Execute())
	require(read.Bio.IsSet() && read.Bio.Get() == nil, "no bio")
	change := nutshell.NewUserUpdate()
	change.SetBio("Wrote.")
	must(users.UpdateUser(ctx, user.Id).UserUpdate(*change).Execute())
	_, counted, err := users.ListUsers(ctx).Sort("name").Order("desc").Prefer("count=exact").Execute()
	require(err == nil && counted.Header.Get("X-Total-Count") == "1", "total")

	posts := client.PostsAPI
	notes := *nutshell.NewPostCreate("a", "b")
	post := must(posts.CreatePost(ctx, user.Id).PostCreate(notes).Execute())
	title := nutshell.NewPostUpdate()
	title.SetTitle("c")
	must(posts.UpdatePost(ctx, post.Id).PostUpdate(*title).Execute())
	require(*must(posts.ReadPost(ctx, post.Id).Execute()).Author.Bio.Get() == "Wrote.", "author")
	must(posts.ListPosts(ctx).AuthorId(user.Id).Execute())
	must(posts.ListUserPosts(ctx, user.Id).Execute())
	done(posts.DeletePost(ctx, post.Id).Execute())
	expect[*nutshell.PostReadWithAuthor](404)(posts.ReadPost(ctx, post.Id).Execute())

	todos := client.TodosAPI
	due := time.Date(2030, 1, 31, 12, 0, 0, 0, time.FixedZone("", 7200))
	cards := nutshell.NewTodoCreate("Cards", user.Id)
	cards.SetDueAt(due)
	todo := must(todos.CreateTodo(ctx).TodoCreate(*cards).Execute())
	require(todo.DueAt.Get().Equal(due), "the same time")
	finish := nutshell.NewTodoUpdate()
	finish.SetDone(true)
	finish.SetDueAtNil()
	must(todos.UpdateTodo(ctx, todo.Id).TodoUpdate(*finish).Execute())
	require(must(todos.ReadTodo(ctx, todo.Id).Execute()).DueAt.Get() == nil, "null is sent")
	found := must(todos.ListTodos(ctx).Sort("due_at").OwnerId(user.Id).Done(true).Q("card").Execute())
	require(len(found) == 1, "one todo")
	must(todos.ListTodos(ctx).DueAfter(due).DueBefore(due.Add(time.Hour)).Execute())
	done(todos.DeleteTodo(ctx, todo.Id).Execute())

	items := client.ItemsAPI
	var batch []nutshell.ItemCreate
	for number := 0; number < 25; number++ {
		batch = append(batch, *nutshell.NewItemCreate(fmt.Sprint("Item ", number)))
	}
	var made, seen []int64
	for _, item := range must(items.CreateItems(ctx).ItemCreate(batch).Execute()) {
		made = append(made, item.Id)
	}
	for after, full := int64(0), true; full; after = seen[len(seen)-1] {
		page := must(items.ListItems(ctx).Limit(10).After(after).Execute())
		for _, item := range page {
			seen = append(seen, item.Id)
		}
		full = len(page) == 10
	}
	require(reflect.DeepEqual(seen, made), "every page")
	two := must(items.ListItems(ctx).Id(made[3:5]).OwnerIdIsNull(true).Execute())
	require(len(two) == 2, "two ids")
	create := items.CreateItem(ctx).ItemCreate(*nutshell.NewItemCreate("Cog")).IdempotencyKey("go-1")
	cog := must(create.Execute())
	again, replayed, err := create.Execute()
	require(err == nil && cog.Id == again.Id, "created once")
	require(replayed.Header.Get("Idempotency-Replayed") == "true", "replayed")
	_, shown, _ := items.ReadItem(ctx, cog.Id).Execute()
	tag := shown.Header.Get("ETag")
	owned := nutshell.NewItemUpdate()
	owned.SetOwnerId(user.Id)
	update := items.UpdateItem(ctx, cog.Id).ItemUpdate(*owned).IfMatch(tag)
	must(update.Execute())
	expect[*nutshell.ItemRead](412)(update.Execute())
	expect[[]nutshell.ItemRead](422)(items.ListItems(ctx).Limit(101).Execute())
	done(items.DeleteItem(ctx, cog.Id).Execute())

	done(users.DeleteUser(ctx, user.Id).IfMatch("*").Execute())
	fmt.Println("every operation answered")
}
