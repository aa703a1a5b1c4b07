// Every operation, with the client that OpenAPI Generator makes of the document for Java.

import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.ApiResponse;
import org.openapitools.client.api.*;
import org.openapitools.client.model.*;

class Client {
    interface Call {
        void make() throws ApiException;
    }

    static void require(boolean condition, String message) {
        if (!condition) throw new AssertionError(message);
    }

    static void expect(int status, Call call) throws ApiException {
        try {
            call.make();
        } catch (ApiException error) {
            require(error.getCode() == status, error.getMessage());
            return;
        }
        throw new AssertionError("expected " + status);
    }

    static String header(ApiResponse<?> answer, String name) {
        List<String> values = answer.getHeaders().get(name);
        return values == null ? "" : values.get(0);
    }

    public static void main(String[] arguments) throws ApiException {
        ApiClient client = new ApiClient();
        client.updateBaseUri(arguments[0]);
        client.setRequestInterceptor(r -> r.header("Authorization", "Bearer " + arguments[1]));

        HealthApi health = new HealthApi(client);
        require(health.readHealth().getStatus() == Health.StatusEnum.OK, "health");
        health.readReadiness();

        UsersApi users = new UsersApi(client);
        UserCreate ada = new UserCreate().email("ada@example.com").name("Ada Lovelace");
        Long userId = users.createUser(ada, null).getId();
        expect(409, () -> users.createUser(ada, null));
        require(users.readUser(userId, null).getBio() == null, "no bio");
        users.updateUser(userId, new UserUpdate().bio("Wrote."), null);
        var all = users.listUsersWithHttpInfo(
            null, null, "name", "desc", null, null, null, null, null, "count=exact");
        require(header(all, "x-total-count").equals("1"), "total");

        PostsApi posts = new PostsApi(client);
        Long postId = posts.createPost(userId, new PostCreate().title("a").body("b"), null).getId();
        posts.updatePost(postId, new PostUpdate().title("c"), null);
        require(posts.readPost(postId, null).getAuthor().getBio().equals("Wrote."), "author");
        posts.listPosts(null, null, null, null, null, null, null, userId, null, null);
        posts.listUserPosts(userId, null, null, null, null, null, null, null, null, null);
        posts.deletePost(postId, null);
        expect(404, () -> posts.readPost(postId, null));

        TodosApi todos = new TodosApi(client);
        OffsetDateTime due = OffsetDateTime.parse("2030-01-31T12:00:00+02:00");
        TodoCreate cards = new TodoCreate().title("Cards").ownerId(userId).dueAt(due);
        TodoRead todo = todos.createTodo(cards, null);
        require(todo.getDueAt().isEqual(due), "the same time");
        todos.updateTodo(todo.getId(), new TodoUpdate().done(true), null);
        require(todos.readTodo(todo.getId(), null).getDone(), "done");
        var found = todos.listTodos(null, null, "due_at", null, null, null, null, userId, true,
            due.plusSeconds(1), due.minusSeconds(1), "card", null, null);
        require(found.size() == 1, "one todo");
        todos.deleteTodo(todo.getId(), null);

        ItemsApi items = new ItemsApi(client);
        List<ItemCreate> batch = IntStream.range(0, 25)
            .mapToObj(number -> new ItemCreate().name("Item " + number)).toList();
        List<Long> made = items.createItems(batch, null).stream().map(ItemRead::getId).toList();
        List<Long> seen = new ArrayList<>();
        List<ItemRead> page;
        do {
            Long after = seen.isEmpty() ? 0L : seen.get(seen.size() - 1);
            page = items.listItems(
                10L, null, null, null, after, null, null, null, null, null, null, null);
            page.forEach(item -> seen.add(item.getId()));
        } while (page.size() == 10);
        require(seen.equals(made), "every page");
        var two = items.listItems(
            null, null, null, null, null, null, made.subList(3, 5), null, true, null, null, null);
        require(two.size() == 2, "two ids");
        var first = items.createItemWithHttpInfo(new ItemCreate().name("Cog"), "java-1");
        var again = items.createItemWithHttpInfo(new ItemCreate().name("Cog"), "java-1");
        require(first.getData().equals(again.getData()), "created once");
        require(header(again, "idempotency-replayed").equals("true"), "replayed");
        Long itemId = first.getData().getId();
        String tag = header(items.readItemWithHttpInfo(itemId, null), "etag");
        items.updateItem(itemId, new ItemUpdate().ownerId(userId), tag);
        expect(412, () -> items.updateItem(itemId, new ItemUpdate().name("Wheel"), tag));
        expect(422, () -> items.listItems(
            101L, null, null, null, null, null, null, null, null, null, null, null));
        items.deleteItem(itemId, null);

        users.deleteUser(userId, "*");
        System.out.println("every operation answered");
    }
}
