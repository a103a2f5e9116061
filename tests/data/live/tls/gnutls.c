/*
 * A client of GnuTLS: `gnutls MODE PORT CA PREFIX COUNT` asks https://example.test at PORT of this machine for
 * `/bytes/SIZE?id=PREFIX-N` again and again until SIGTERM, on COUNT connections of TLS 1.2 and 1.3 in turn, each in a
 * thread of its own. MODE: `steady`, or `corked`, which collects each request in the library first. Writes a JSON line for each response: id, path, status, SHA-256 of the body, source port, and when it
 * began (milliseconds since the Unix epoch).
 */
#include <arpa/inet.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NAME "example.test"

static volatile sig_atomic_t is_over;
static gnutls_certificate_credentials_t credentials;
static const char *prefix;
static int port, count, is_corking;

static void stop(int signal)
{
	(void)signal;
	is_over = 1;
}

static void must(int is_done, const char *what)
{
	if (is_done)
		return;
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static void check(int error)
{
	must(error >= 0, gnutls_strerror(error));
}

/* One request, and its response with a Content-Length. */
static void ask(gnutls_session_t session, int number, int local)
{
	char path[128], request[512], answer[16384], hash[32], *body;
	size_t length = 0, wanted, sent = 0, size;
	struct timespec began;
	ssize_t moved;

	snprintf(path, sizeof(path), "/bytes/%d?id=%s-%d", number % 40 * 37, prefix, number);
	size = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: " NAME "\r\nX-Request-Id: %s-%d\r\n\r\n", path,
			prefix, number);
	clock_gettime(CLOCK_REALTIME, &began);
	if (is_corking)
		gnutls_record_cork(session);
	for (; sent < size; sent += moved) {
		moved = gnutls_record_send(session, request + sent, size - sent);
		check(moved);
	}
	if (is_corking)
		check(gnutls_record_uncork(session, GNUTLS_RECORD_WAIT));
	for (;;) {
		answer[length] = 0;
		body = strstr(answer, "\r\n\r\n");
		if (body) {
			char *field = strcasestr(answer, "content-length:");

			must(field && field < body, "no Content-Length");
			body += 4;
			wanted = atoi(field + strlen("content-length:"));
			if (answer + length >= body + wanted)
				break;
		}
		must(length < sizeof(answer) - 1, "a long answer");
		/* In two pieces, as of a program that reads a little first; again where what came was no data. */
		do
			moved = gnutls_record_recv(session, answer + length, length ? sizeof(answer) - 1 - length : 7);
		while (moved == GNUTLS_E_AGAIN);
		check(moved);
		must(moved > 0, "the connection has ended");
		length += moved;
	}
	check(gnutls_hash_fast(GNUTLS_DIG_SHA256, body, wanted, hash));
	flockfile(stdout);
	printf("{\"id\":\"%s-%d\",\"path\":\"%s\",\"status\":%d,\"port\":%d,\"began\":%lld.%03ld,\"sha256\":\"", prefix, number,
	       path, atoi(answer + strlen("HTTP/1.1 ")), local, began.tv_sec * 1000LL + began.tv_nsec / 1000000,
	       began.tv_nsec / 1000 % 1000);
	for (int i = 0; i < 32; i++)
		printf("%02x", (unsigned char)hash[i]);
	printf("\"}\n");
	fflush(stdout);
	funlockfile(stdout);
}

static void *steady(void *first)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	int number = (int)(size_t)first, fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t size = sizeof(address);
	gnutls_session_t session;
	int error;

	inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
	must(!connect(fd, (struct sockaddr *)&address, sizeof(address)), "cannot connect");
	getsockname(fd, (struct sockaddr *)&address, &size);
	check(gnutls_init(&session, GNUTLS_CLIENT));
	check(gnutls_priority_set_direct(session, number % 2 ? "NORMAL:-VERS-ALL:+VERS-TLS1.3" : "NORMAL:-VERS-ALL:+VERS-TLS1.2",
					 NULL));
	check(gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials));
	check(gnutls_server_name_set(session, GNUTLS_NAME_DNS, NAME, strlen(NAME)));
	gnutls_session_set_verify_cert(session, NAME, 0);
	gnutls_transport_set_int(session, fd);
	do
		error = gnutls_handshake(session);
	while (error < 0 && !gnutls_error_is_fatal(error));
	check(error);
	for (; !is_over; number += count) {
		ask(session, number, ntohs(address.sin_port));
		usleep(20000);
	}
	gnutls_bye(session, GNUTLS_SHUT_WR);
	close(fd);
	gnutls_deinit(session);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[64];

	must(argc == 6, "usage: gnutls steady|corked PORT CA PREFIX COUNT");
	is_corking = !strcmp(argv[1], "corked");
	port = atoi(argv[2]);
	prefix = argv[4];
	count = atoi(argv[5]);
	must(count <= 64, "that many threads");
	signal(SIGTERM, stop);
	check(gnutls_certificate_allocate_credentials(&credentials));
	check(gnutls_certificate_set_x509_trust_file(credentials, argv[3], GNUTLS_X509_FMT_PEM));
	for (int i = 0; i < count; i++)
		must(!pthread_create(&threads[i], NULL, steady, (void *)(size_t)i), "no thread");
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
