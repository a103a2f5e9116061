/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All that both sides see: kinds, heads, limits. Rust's types are generated from these; nothing here is written twice.
 * Every event starts with struct event_head; a data event's payload follows its head directly.
 */
#ifndef SIDETAP_EVENTS_H
#define SIDETAP_EVENTS_H

enum event_kind {
	EVENT_DATA = 1,
	EVENT_OPEN = 2,
	EVENT_END = 3,
	EVENT_CLOSE = 4,
	EVENT_EXEC = 5,
	EVENT_EXIT = 6,
	EVENT_FORK = 7,
	EVENT_DNS = 8,
	EVENT_SECRET = 9,
	EVENT_QUIC = 10,
	EVENT_PLAIN = 11,
};

enum direction {
	SENT = 0,
	RECEIVED = 1,
};

enum role {
	ROLE_UNKNOWN = 0,
	ROLE_CLIENT = 1, /* connected */
	ROLE_SERVER = 2, /* was connected to */
};

/* flags of a data event */
enum data_flag {
	DATA_CALL_START = 1,   /* the first byte of a call */
	DATA_UNOBSERVABLE = 2, /* moved without passing through the process's memory, or out of our reach there */
	DATA_DOUBTFUL = 4,     /* of plaintext: nothing more of it, it may not be this connection's */
};

/* flags of a connection */
enum connection_flag {
	CONNECTION_OLDER = 1, /* was in use before we looked: its first bytes were not seen */
	CONNECTION_LOOPBACK = 2,
	CONNECTION_COUNTED = 4,   /* no sequence numbers of the kernel's: positions are counted by us */
	CONNECTION_ANNOUNCED = 8, /* user space was told */
	CONNECTION_FOUND = 16,    /* VERDICT_LOOK found a message: captured from then on */
	CONNECTION_SHUT = 32,     /* our FIN was sent: final[SENT] is set */
	CONNECTION_CLOSED = 64,   /* both of `final` are set */
	CONNECTION_LOST = 128,    /* `lost` is set */
	CONNECTION_OURS = 256,    /* at the other end are we ourselves */
	CONNECTION_MET = 512,     /* a call of it was to be captured */
	CONNECTION_KTLS = 1024,   /* closed: the kernel was asked to do its TLS */
	CONNECTION_BOUND = 2048,  /* an object of a TLS library belongs to it */
};

/* what user space says of a connection, in struct order */
enum verdict {
	VERDICT_CAPTURE = 0,
	VERDICT_LOOK = 1,  /* joined midway: only calls that begin like a message */
	VERDICT_DROP = 2,  /* none of the known protocols */
	VERDICT_PLAIN = 3, /* only what a TLS library was seen reading and writing */
};

/* what user space says of a process */
enum process_verdict {
	PROCESS_TAPPED = 1,
	PROCESS_LEFT_OUT = 2,
};

enum counter {
	COUNT_CALLS,  /* calls that moved bytes of tapped connections */
	COUNT_EVENTS, /* events given to the buffers, but for those of processes */
	COUNT_PROCESS_EVENTS,
	COUNT_LOST_DATA, /* buffer full */
	COUNT_LOST_OPEN,
	COUNT_LOST_END,
	COUNT_LOST_CLOSE,
	COUNT_LOST_PROCESS,
	COUNT_LOST_DNS, /* only names are */
	COUNT_LOST_SECRET,
	COUNT_FAULTS,     /* payload not readable: the bytes became a gap */
	COUNT_TABLE_FULL, /* no room for another connection */
	COUNT_LEFT_OUT,   /* calls of processes and connections that filters leave out */
	COUNT_SKIPPED,    /* calls that user space did not want */
	COUNT_AGAIN,      /* calls that the second of two programs took in */
	COUNTERS,
};

enum limit {
	/* payload of one event; a power of two minus one, for the verifier's mask */
	PAYLOAD_MAX = 0x7fff,
	/* buffers walked per call, with and without bpf_loop(): 32 events of PAYLOAD_MAX are 1 MiB */
	WALK_STEPS = 1024 + 64,
	WALK_STEPS_BOUNDED = 64 + 32,
	/* places for orders; a power of two */
	ORDERS = 65536,
	/* threads with a call between two programs; a power of two */
	TAKEN = 4096,
	CONNECTIONS_MAX = 262144,
	UNIX_CONNECTIONS_MAX = 16384,
	UNIX_PATH_MAX_LEN = 108,
	COMM_LEN = 16,
	/* a component of a path with its NUL */
	NAME_MAX_LEN = 256,
	/* names of a process's event; a power of two minus one, for the verifier's mask */
	PROCESS_TEXT_MAX = 0xfff,
	/* of a DNS message; a power of two minus one, for the verifier's mask */
	DNS_MAX = 0xfff,
	/* components and mounts of an executable's path; levels of a control group's */
	PATH_DEPTH = 40,
	CGROUP_DEPTH = 20,
	/* of TLS: a hash of 64 bytes is the longest in use */
	SECRET_MAX = 64,
};

/* which secret of TLS an event holds */
enum secret_label {
	/* HKDF-Expand-Label: the secret that is expanded, and the hash of the handshake so far as context */
	SECRET_EARLY = 1,
	SECRET_HANDSHAKE = 2,
	SECRET_APPLICATION = 3,
	/* TLS 1.2 and before: the master secret, and the client random as context */
	SECRET_MASTER = 4,
	/* lines of a key log: what they say, and the client random as context */
	SECRET_LOG_MASTER = 5,
	SECRET_LOG_CLIENT_EARLY = 6,
	SECRET_LOG_CLIENT_HANDSHAKE = 7,
	SECRET_LOG_SERVER_HANDSHAKE = 8,
	SECRET_LOG_CLIENT_APPLICATION = 9,
	SECRET_LOG_SERVER_APPLICATION = 10,
};

/* which library of TLS derives keys at a function; BoringSSL's are AWS-LC's, too */
enum tls_library {
	LIBRARY_OPENSSL = 1,
	LIBRARY_GNUTLS = 2,
	LIBRARY_GO = 3,
	LIBRARY_BORINGSSL = 4,
	LIBRARY_OPENSSL_1_1 = 5,
};

/* what the text of a process's event holds, in this order; paths as components, the last one first */
enum process_text {
	TEXT_EXE,       /* path of the executable; nothing where it is too long or has none */
	TEXT_CGROUP,    /* control group in the hierarchy of version 2 */
	TEXT_CGROUP_V1, /* and in one of version 1, where there are any */
	TEXT_FILENAME,  /* what was given to execve(); one component */
	TEXTS,
};

struct event_head {
	__u64 time; /* CLOCK_BOOTTIME, ns */
	__u32 kind; /* enum event_kind */
	__u32 pid;  /* thread group of the current task */
};

/*
 * Bytes moved by one call, or a part of them. `attached` bytes follow. EVENT_PLAIN: bytes that a TLS library gave or
 * took within a connection, counted from the first one that was seen; without any, those to come are meant.
 */
struct data_event {
	struct event_head head;
	__u64 connection;
	__u64 socket;   /* key in `connections`, for events whose opening was lost */
	__u32 position; /* of the first byte, as the kernel numbers them; serial arithmetic */
	__u32 moved;    /* bytes of the stream that this event stands for */
	__u32 attached; /* how many of them, from the first on, follow */
	__u8 direction;
	__u8 role;
	__u8 flags;   /* enum data_flag */
	__u8 library; /* EVENT_PLAIN: enum tls_library */
};

/* Which process, and which program in its life; the user it was then. */
struct owner {
	__u64 started; /* its first thread, CLOCK_BOOTTIME, ns; with the id it tells a reused one */
	__u32 exec_id; /* counts its execve() calls, and those of its ancestors */
	__u32 uid;     /* effective */
};

/* One TCP connection or Unix stream, as one of its ends sees it. */
struct connection {
	__u64 id;
	__u64 socket;
	__u64 opened;       /* CLOCK_BOOTTIME, ns; 0 where older than we are */
	struct owner owner; /* at its first call, or at connect(); zeros: not known */
	__u32 pid;
	__u32 netns;      /* inode of the network namespace */
	__u32 inode;      /* of the socket file; tells a reused address of a Unix socket */
	__s32 error;      /* errno that ended it, or 0 */
	__u32 base[2];    /* position of the first byte sent and received; not set where older */
	__u32 counted[2]; /* CONNECTION_COUNTED: bytes so far */
	__u32 final[2];   /* where the directions stood when they ended */
	__u32 lost[2];    /* where the last event that found no room ended; 0: none */
	__u8 local[16];
	__u8 remote[16]; /* IPv4 as the first four bytes */
	__u16 local_port;
	__u16 remote_port;
	__u8 family;
	__u8 role;
	__u16 flags; /* enum connection_flag */
};

/* A connection's first call that moved bytes. */
struct open_event {
	struct event_head head;
	struct connection connection;
	char local_path[UNIX_PATH_MAX_LEN]; /* Unix: NUL first for an abstract name */
	char remote_path[UNIX_PATH_MAX_LEN];
	__u32 local_path_len;
	__u32 remote_path_len;
};

/* One direction will carry no byte at or after `position`. */
struct end_event {
	struct event_head head;
	__u64 connection;
	__u32 position;
	__u8 direction;
	__u8 pad[3];
};

/* The socket is gone; `connection` as it was last, `final` set. */
struct close_event {
	struct event_head head;
	struct connection connection;
};

/*
 * A process was made (EVENT_FORK) or has become another program (EVENT_EXEC); `pid` of the head is its own. The text
 * follows.
 */
struct process_event {
	struct event_head head;
	struct owner owner;
	__u32 mntns; /* inodes of its namespaces */
	__u32 netns;
	__u16 ends[TEXTS]; /* of each part of the text */
	char comm[COMM_LEN];
};

struct exit_event {
	struct event_head head;
	__u64 started;
};

/* An answer that a process received from a DNS server over UDP. `attached` bytes follow. */
struct dns_event {
	struct event_head head;
	struct connection connection; /* the two ends, as of a TCP connection; each answer has an id of its own */
	__u32 moved;
	__u32 attached;
};

/* A process received the beginning of a QUIC connection. */
struct quic_event {
	struct event_head head;
	struct owner owner;
};

/* What a library was seen deriving keys from. Never in a recording that is not made for it. */
struct secret_event {
	struct event_head head;
	__u8 label; /* enum secret_label */
	__u8 secret_len;
	__u8 context_len;
	__u8 library; /* enum tls_library */
	__u8 pad[4];
	__u8 secret[SECRET_MAX];
	__u8 context[SECRET_MAX];
};

/* What the list of connections that are older than we are holds. */
struct older_connection {
	__u64 connection;
	__u64 socket;
	__u32 pid;
	__u32 pad;
};

/* User space writes, the kernel reads; valid while `connection` is the id it is read for. */
struct order {
	__u64 connection;
	__u32 skip_to[2]; /* per direction: what lies before is not wanted */
	__u8 skips[2];    /* whether skip_to is set */
	__u8 verdict;
	__u8 pad[5];
};

/* What user space says of a process, if it is still the same and the same program; zeros: whatever it is. */
struct judgement {
	__u64 started;
	__u32 exec_id;
	__u8 verdict; /* enum process_verdict */
	__u8 pad[3];
};

/* Set by user space before and while we run. */
struct settings {
	__u32 self;      /* our own thread group */
	__u32 watermark; /* bytes in a buffer at which its reader is woken */
	__u8 role;       /* capture connections of this enum role only; 0: all */
	__u8 ignore_loopback;
	__u8 filter_processes; /* whether `processes` holds any verdict */
	__u8 empty;            /* measure the floor: programs return at once */
	__u32 generation;      /* another number once anything of what is decided here, or of processes, has changed */
};

_Static_assert(sizeof(struct event_head) == 16, "layout");
_Static_assert(sizeof(struct data_event) == 48, "layout");
_Static_assert(sizeof(struct connection) == 128, "layout");
_Static_assert(sizeof(struct order) == 24, "layout");
_Static_assert(sizeof(struct judgement) == 16, "layout");
_Static_assert(sizeof(struct dns_event) == 152, "layout");
_Static_assert(sizeof(struct secret_event) == 152, "layout");
_Static_assert(sizeof(struct quic_event) == 32, "layout");
_Static_assert((DNS_MAX & (DNS_MAX + 1)) == 0, "the verifier's mask");
_Static_assert(sizeof(struct process_event) == 64, "layout");
_Static_assert((PROCESS_TEXT_MAX & (PROCESS_TEXT_MAX + 1)) == 0, "the verifier's mask");
_Static_assert((PAYLOAD_MAX & (PAYLOAD_MAX + 1)) == 0, "the verifier's mask");
_Static_assert((ORDERS & (ORDERS - 1)) == 0, "index by mask");
_Static_assert((TAKEN & (TAKEN - 1)) == 0, "index by mask");

#endif
