/*
 * A client and a server of BoringSSL, in HTTP/1.1:
 *
 *     client PORT CA PREFIX COUNT   COUNT requests with `X-Request-Id: PREFIX-N` on one connection to
 * https://example.test at PORT of this machine; every third sends its body and gets it back server PORT PEM answers
 * each request with its own body, one connection after the other
 *
 * The client writes a JSON line for each request: id, status, SHA-256 of the response's body, and its port.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAME "example.test"
#define ROOM (1 << 20)

static char head[1 << 16], body[ROOM];

static void fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	ERR_print_errors_fp(stderr);
	exit(1);
}

static void must(int is_well, const char *what)
{
	if (!is_well)
		fail(what);
}

static struct sockaddr_in address(const char *port)
{
	struct sockaddr_in made = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	made.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return made;
}

static void write_all(SSL *tls, const char *bytes, int size)
{
	must(!size || SSL_write(tls, bytes, size) == size, "write");
}

/* A head into `head`, ended by NUL, and its body of Content-Length into `body`; its size, -1 where nothing comes. */
static int read_message(SSL *tls)
{
	int got = 0, size, have;
	char *end, *length;

	while (head[got] = 0, !(end = strstr(head, "\r\n\r\n"))) {
		int more = SSL_read(tls, head + got, sizeof(head) - 1 - got);

		if (more <= 0)
			return -1;
		got += more;
	}
	end += 4;
	have = head + got - end;
	length = strcasestr(head, "\r\ncontent-length:");
	size = length && length < end ? atoi(length + 17) : 0;
	must(size <= ROOM && have <= size, "a body that fits");
	memcpy(body, end, have);
	*end = 0;
	while (have < size) {
		int more = SSL_read(tls, body + have, size - have);

		must(more > 0, "the rest of a body");
		have += more;
	}
	return size;
}

static void ask(SSL *tls, const char *prefix, int number, int port)
{
	unsigned char hash[SHA256_DIGEST_LENGTH];
	int i, size = number % 40 * 37, sent = number % 3 == 2 ? size * 256 : 0;
	char request[512];

	for (i = 0; i < sent; i++)
		body[i] = i;
	snprintf(request, sizeof(request),
	         sent ? "POST /mirror HTTP/1.1\r\nHost: %s\r\nX-Request-Id: %s-%d\r\nContent-Length: %d\r\n\r\n"
	              : "GET /bytes/%4$d HTTP/1.1\r\nHost: %1$s\r\nX-Request-Id: %2$s-%3$d\r\n\r\n",
	         NAME, prefix, number, sent ? sent : size);
	write_all(tls, request, strlen(request));
	write_all(tls, body, sent);
	size = read_message(tls);
	must(size >= 0, "a response");
	SHA256((unsigned char *)body, size, hash);
	printf("{\"id\":\"%s-%d\",\"status\":%d,\"port\":%d,\"sha256\":\"", prefix, number, atoi(head + 9), port);
	for (i = 0; i < SHA256_DIGEST_LENGTH; i++)
		printf("%02x", hash[i]);
	printf("\"}\n");
}

static void client(SSL_CTX *context, char **arguments)
{
	struct sockaddr_in peer = address(arguments[0]), own;
	int number, fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t size = sizeof(own);
	SSL *tls;

	must(SSL_CTX_load_verify_locations(context, arguments[1], NULL), "the authority");
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	tls = SSL_new(context);
	must(SSL_set_tlsext_host_name(tls, NAME) && SSL_set1_host(tls, NAME), "the name");
	must(!connect(fd, (struct sockaddr *)&peer, sizeof(peer)), "connect");
	getsockname(fd, (struct sockaddr *)&own, &size);
	SSL_set_fd(tls, fd);
	must(SSL_connect(tls) == 1, "handshake");
	for (number = 0; number < atoi(arguments[3]); number++)
		ask(tls, arguments[2], number, ntohs(own.sin_port));
	SSL_shutdown(tls);
}

static void server(SSL_CTX *context, char **arguments)
{
	struct sockaddr_in own = address(arguments[0]);
	int fd, one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

	must(SSL_CTX_use_certificate_chain_file(context, arguments[1]), "the certificate");
	must(SSL_CTX_use_PrivateKey_file(context, arguments[1], SSL_FILETYPE_PEM), "the key");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	must(!bind(listener, (struct sockaddr *)&own, sizeof(own)) && !listen(listener, 16), "listen");
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		SSL *tls = SSL_new(context);
		int size;

		SSL_set_fd(tls, fd);
		if (SSL_accept(tls) == 1) {
			while ((size = read_message(tls)) >= 0) {
				snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size);
				write_all(tls, head, strlen(head));
				write_all(tls, body, size);
			}
			SSL_shutdown(tls);
		}
		SSL_free(tls);
		close(fd);
	}
}

int main(int count, char **arguments)
{
	SSL_CTX *context = SSL_CTX_new(TLS_method());

	if (count == 6 && !strcmp(arguments[1], "client"))
		client(context, arguments + 2);
	else if (count == 4 && !strcmp(arguments[1], "server"))
		server(context, arguments + 2);
	else
		fail("client PORT CA PREFIX COUNT, or server PORT PEM");
	return 0;
}
