import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/** The JDK's own HTTP server: java App PORT */
public class App {
    public static void main(String[] args) throws Exception {
        String slot = System.getenv().getOrDefault("NODE_APP_INSTANCE", "0");
        String text = "{\"pid\":" + ProcessHandle.current().pid() + ",\"slot\":" + slot + "}";
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
        HttpServer server = HttpServer.create(address, 128);
        server.createContext("/", exchange -> {
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }
}
