/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Secrets of TLS, at the entry of the functions that derive keys from them or where they are handed to a key log: some
 * calls per handshake, none per record.
 * User space finds the functions in the files that processes have mapped, and attaches the programs there.
 *
 * In TLS 1.3 one secret of each stage is enough: "s hs traffic" is derived from the handshake secret and "s ap traffic"
 * from the master secret by both ends at once, while a client of 0-RTT leaves "c hs traffic" for later.
 */
#include "compat.h"
#include "emit.h"

#define FOUR(a, b, c, d) ((__u32)(a) | (__u32)(b) << 8 | (__u32)(c) << 16 | (__u32)(d) << 24)
#define EIGHT(a, b, c, d, e, f, g, h) (FOUR(a, b, c, d) | (__u64)FOUR(e, f, g, h) << 32)

/* Of "s hs traffic", "s ap traffic" and "c e traffic"; the first eleven characters tell them from all others. */
#define LABEL_LEN 12
#define LABEL_EARLY_LEN 11
#define LABEL_READ 11

/* "key expansion" (RFC 5246 section 6.3), and the randoms that follow it. */
#define KEY_EXPANSION_LEN 13
#define KEY_EXPANSION EIGHT('k', 'e', 'y', ' ', 'e', 'x', 'p', 'a')
#define RANDOM_LEN 32

/* Names of OpenSSL's parameters (openssl/core_names.h), and how many of eight bytes they and their NUL are. */
#define NAME_KEY EIGHT('k', 'e', 'y', 0, 0, 0, 0, 0)
#define NAME_DATA EIGHT('d', 'a', 't', 'a', 0, 0, 0, 0)
#define NAME_SEED EIGHT('s', 'e', 'e', 'd', 0, 0, 0, 0)
#define NAME_LABEL EIGHT('l', 'a', 'b', 'e', 'l', 0, 0, 0)
#define NAME_SECRET EIGHT('s', 'e', 'c', 'r', 'e', 't', 0, 0)
#define IS_NAME(name, wanted, length) !(((name) ^ (wanted)) << 8 * (7 - (length)))

/* struct OSSL_PARAM of OpenSSL 3 (openssl/core.h); TLS gives eight of them, the last one without a name. */
struct ossl_param {
	__u64 name;
	__u32 type;
	__u64 data;
	__u64 size;
	__u64 returned;
};
#define OSSL_PARAMS 12
#define OSSL_PARAM_OCTET_STRING 5

/* OpenSSL 1.1.1, openssl/evp.h and openssl/kdf.h */
#define EVP_PKEY_OP_DERIVE (1 << 10)
#define EVP_PKEY_CTRL_TLS_SECRET 0x1001
#define EVP_PKEY_CTRL_TLS_SEED 0x1002
#define EVP_PKEY_CTRL_HKDF_KEY 0x1005
#define EVP_PKEY_CTRL_HKDF_INFO 0x1006

/* Bytes in the process's memory. */
struct span {
	__u64 data;
	__u64 size;
};

/* A secret and what tells its connection, and where they lie. */
struct found {
	__u8 label; /* enum secret_label */
	struct span secret;
	struct span context;
};

/* How far a derivation of several calls is. */
struct derivation {
	__u64 context;      /* the library's, if it has one */
	struct span secret; /* where it lies, not what it is */
	__u64 seeds;        /* so far: "key expansion", server random, client random */
};

/* Thread to the derivation it is at; from its secret to its last input or the next one, or until pushed out; key:
 * process and thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct derivation);
} derivations SEC(".maps");

/*
 * `may_sleep`: also fetches what the process has not touched yet, such as names in a library at its first handshake.
 * Before Linux 6.0 no such program can, and what is not there is not readable. Nearly all is there, and the helper that
 * fetches costs more: it looks up whose memory it copies to (check_object_size).
 */
static __always_inline long read_user(void *to, __u32 size, __u64 from, bool may_sleep)
{
	long error = bpf_probe_read_user(to, size, (const void *)from);

	return error && may_sleep ? bpf_copy_from_user(to, size, (const void *)from) : error;
}

/* Into a field of SECRET_MAX bytes; how many, 0 where they are not readable or do not fit. */
static __always_inline __u8 read_span(__u8 *to, const struct span *from, bool may_sleep)
{
	__u64 size = from->size;

	/* What is compared is what is copied: proves the bound. */
	barrier_var(size);
	if (!size || size > SECRET_MAX)
		return 0;
	return read_user(to, size, from->data, may_sleep) ? 0 : size;
}

static __always_inline void send_secret(const struct found *found, __u8 library, bool may_sleep)
{
	/* Not in the scratch: while this program sleeps, another one may use it. */
	struct secret_event event = {};

	fill_head(&event.head, EVENT_SECRET, current_pid());
	event.label = found->label;
	event.library = library;
	event.secret_len = read_span(event.secret, &found->secret, may_sleep);
	event.context_len = read_span(event.context, &found->context, may_sleep);
	if (!event.secret_len || !event.context_len) {
		count(COUNT_LOST_SECRET);
		return;
	}
	output(&event, sizeof(event), COUNT_LOST_SECRET);
}

/* Which label of TLS 1.3 this is, without its "tls13 "; 0 for those that are not needed. `text`: LABEL_READ bytes. */
static __always_inline __u8 label_of(const __u32 *text, __u64 length)
{
	__u32 last = text[2] & 0xffffff;

	if (length == LABEL_LEN && text[1] == FOUR(' ', 't', 'r', 'a') && last == FOUR('f', 'f', 'i', 0)) {
		if (text[0] == FOUR('s', ' ', 'h', 's'))
			return SECRET_HANDSHAKE;
		if (text[0] == FOUR('s', ' ', 'a', 'p'))
			return SECRET_APPLICATION;
	}
	if (length == LABEL_EARLY_LEN && text[0] == FOUR('c', ' ', 'e', ' ') && text[1] == FOUR('t', 'r', 'a', 'f') &&
	    last == FOUR('f', 'i', 'c', 0))
		return SECRET_EARLY;
	return 0;
}

static __always_inline bool is_key_expansion(__u64 text, __u64 length, bool may_sleep)
{
	__u64 first;

	return length == KEY_EXPANSION_LEN && !read_user(&first, sizeof(first), text, may_sleep) &&
	       first == KEY_EXPANSION;
}

/* The master secret, where the last seed of a key expansion is a client random. */
static __always_inline bool find_master(struct found *found, __u64 random, __u64 length)
{
	found->label = SECRET_MASTER;
	found->context.data = random;
	found->context.size = length;
	return length == RANDOM_LEN;
}

/* HKDF-Expand as TLS 1.3 has it: `info` is an HkdfLabel (RFC 8446 section 7.1). */
static __always_inline bool find_expand(struct found *found, const struct span *info, bool may_sleep)
{
	/* length, the label's length and its "tls13 "; the label, the context's length and a hash */
	enum { BEFORE = 2 + 1 + 6, SHORTEST = BEFORE + LABEL_EARLY_LEN + 1 + 32 };
	__u8 text[32] __attribute__((aligned(8))) = {}, *label = text + 16;
	__u64 length;

	if (info->size < SHORTEST || read_user(label - BEFORE, BEFORE + LABEL_LEN + 1, info->data, may_sleep))
		return false;
	length = label[-7] - 6;
	found->label = label_of((const __u32 *)label, length);
	found->context.data = info->data + BEFORE + length + 1;
	found->context.size = length == LABEL_LEN ? label[LABEL_LEN] : label[LABEL_EARLY_LEN];
	return found->label;
}

/* What the parameters of a derivation are; of its seeds the last three. */
struct inputs {
	struct span secret;
	struct span label;
	struct span hash;
	struct span seeds[3];
};

static __always_inline void add_input(struct inputs *in, __u64 name, const struct span *value)
{
	if (IS_NAME(name, NAME_KEY, 3) || IS_NAME(name, NAME_SECRET, 6)) {
		in->secret = *value;
	} else if (IS_NAME(name, NAME_LABEL, 5)) {
		in->label = *value;
	} else if (IS_NAME(name, NAME_DATA, 4)) {
		in->hash = *value;
	} else if (IS_NAME(name, NAME_SEED, 4) && value->size) {
		in->seeds[0] = in->seeds[1];
		in->seeds[1] = in->seeds[2];
		in->seeds[2] = *value;
	}
}

/* Zero, which the verifier does not know: else each set of inputs that are there already is another state to it. */
volatile __u64 nothing = 0;

/* EVP_KDF_derive(context, out, size, params) of OpenSSL 3: TLS13-KDF and TLS1-PRF. */
static __always_inline bool on_openssl_derive(struct pt_regs *ctx, struct found *found, bool may_sleep)
{
	struct inputs in = {
		.secret.size = nothing, .secret.data = nothing, .label.size = nothing, .label.data = nothing
	};
	__u64 name, params = PT_REGS_PARM4(ctx);
	struct ossl_param param;
	__u32 text[4] = {};
	int i;

	in.hash = in.secret;
	in.seeds[0] = in.secret;
	in.seeds[1] = in.secret;
	in.seeds[2] = in.secret;
	for (i = 0; i < OSSL_PARAMS; i++) {
		struct span value;

		if (read_user(&param, sizeof(param), params + i * sizeof(param), may_sleep) || !param.name)
			break;
		/* Neither the mode nor the digest, whose names need not be read. */
		if (param.type != OSSL_PARAM_OCTET_STRING || read_user(&name, sizeof(name), param.name, may_sleep))
			continue;
		value.data = param.data;
		value.size = param.size;
		add_input(&in, name, &value);
	}
	found->secret = in.secret;
	/* "key expansion", server random, client random */
	if (in.seeds[0].size)
		return is_key_expansion(in.seeds[0].data, in.seeds[0].size, may_sleep) &&
		       find_master(found, in.seeds[2].data, in.seeds[2].size);
	if ((in.label.size != LABEL_LEN && in.label.size != LABEL_EARLY_LEN) ||
	    read_user(text, LABEL_READ, in.label.data, may_sleep))
		return false;
	found->context = in.hash;
	found->label = label_of(text, in.label.size);
	return found->label;
}

/* EVP_PKEY_CTX_ctrl(context, key type, operation, command, number, pointer) of OpenSSL 1.1.1: each input is a call. */
static __always_inline bool on_openssl_ctrl(struct pt_regs *ctx, struct found *found, bool may_sleep)
{
	struct span input = { .data = PT_REGS_PARM6(ctx), .size = (__u32)PT_REGS_PARM5(ctx) };
	struct derivation *known, fresh = { .context = PT_REGS_PARM1(ctx), .secret = input };
	__u64 thread = bpf_get_current_pid_tgid();
	__u32 command = PT_REGS_PARM4(ctx);
	bool is_found;

	/* Operations of other keys have commands of the same numbers. */
	if ((__u32)PT_REGS_PARM3(ctx) != EVP_PKEY_OP_DERIVE || (__s32)PT_REGS_PARM2(ctx) != -1)
		return false;
	if (command == EVP_PKEY_CTRL_TLS_SECRET || command == EVP_PKEY_CTRL_HKDF_KEY) {
		bpf_map_update_elem(&derivations, &thread, &fresh, BPF_ANY);
		return false;
	}
	if (command != EVP_PKEY_CTRL_TLS_SEED && command != EVP_PKEY_CTRL_HKDF_INFO)
		return false;
	known = bpf_map_lookup_elem(&derivations, &thread);
	if (!known || known->context != fresh.context)
		return false;
	found->secret = known->secret;
	if (command == EVP_PKEY_CTRL_HKDF_INFO) {
		is_found = find_expand(found, &input, may_sleep);
	} else {
		if (known->seeds || is_key_expansion(input.data, input.size, may_sleep))
			known->seeds++;
		if (known->seeds < 3)
			return false;
		is_found = find_master(found, input.data, input.size);
	}
	bpf_map_delete_elem(&derivations, &thread);
	return is_found;
}

/* nettle_hkdf_extract(mac, update, digest, digest's size, size, input, out): a secret will be there. Under GnuTLS. */
static __always_inline bool on_nettle_extract(struct pt_regs *ctx, struct found *found, bool may_sleep)
{
	struct derivation fresh = {};
	__u64 thread = bpf_get_current_pid_tgid();

	fresh.secret.data = later_argument(ctx, 7);
	fresh.secret.size = PT_REGS_PARM4(ctx);
	bpf_map_update_elem(&derivations, &thread, &fresh, BPF_ANY);
	return false;
}

/*
 * nettle_hkdf_expand(mac, update, digest, digest's size, info's size, info, ...): the secret is in the mac, where it
 * cannot be read from any more. GnuTLS has just extracted it in the same call (_tls13_update_secret).
 */
static __always_inline bool on_nettle_expand(struct pt_regs *ctx, struct found *found, bool may_sleep)
{
	struct span info = { .data = PT_REGS_PARM6(ctx), .size = PT_REGS_PARM5(ctx) };
	__u64 thread = bpf_get_current_pid_tgid();
	struct derivation *known = bpf_map_lookup_elem(&derivations, &thread);

	if (!known || known->context)
		return false;
	found->secret = known->secret;
	return find_expand(found, &info, may_sleep);
}

/* _gnutls_prf_raw(mac, secret size, secret, label size, label, seed size, seed, ...) of GnuTLS: both randoms are one.
 */
static __always_inline bool on_gnutls_prf(struct pt_regs *ctx, struct found *found, bool may_sleep)
{
	found->secret.data = PT_REGS_PARM3(ctx);
	found->secret.size = PT_REGS_PARM2(ctx);
	return PT_REGS_PARM6(ctx) == 2 * RANDOM_LEN &&
	       is_key_expansion(PT_REGS_PARM5(ctx), PT_REGS_PARM4(ctx), may_sleep) &&
	       find_master(found, later_argument(ctx, 7) + RANDOM_LEN, RANDOM_LEN);
}

/* HKDF_expand(out, size, digest, secret, its size, info, its size) of BoringSSL and AWS-LC. */
static __always_inline bool on_boringssl_expand(struct pt_regs *ctx, struct found *found, bool may_sleep)
{
	struct span info = { .data = PT_REGS_PARM6(ctx), .size = later_argument(ctx, 7) };

	found->secret.data = PT_REGS_PARM4(ctx);
	found->secret.size = PT_REGS_PARM5(ctx);
	return find_expand(found, &info, may_sleep);
}

/* CRYPTO_tls1_prf(digest, out, size, secret, its size, label, its size, seed, its size, seed, its size) of both. */
static __always_inline bool on_boringssl_prf(struct pt_regs *ctx, struct found *found, bool may_sleep)
{
	found->secret.data = PT_REGS_PARM4(ctx);
	found->secret.size = PT_REGS_PARM5(ctx);
	return is_key_expansion(PT_REGS_PARM6(ctx), later_argument(ctx, 7), may_sleep) &&
	       find_master(found, later_argument(ctx, 10), later_argument(ctx, 11));
}

/* Which line of a key log this is: no two labels of the same length begin with the same letter. */
static __always_inline __u8 log_label(char first, __u64 length)
{
	switch (length) {
	case sizeof("CLIENT_RANDOM") - 1:
		return SECRET_LOG_MASTER;
	case sizeof("CLIENT_EARLY_TRAFFIC_SECRET") - 1:
		return SECRET_LOG_CLIENT_EARLY;
	case sizeof("CLIENT_HANDSHAKE_TRAFFIC_SECRET") - 1:
		return first == 'C' ? SECRET_LOG_CLIENT_HANDSHAKE : SECRET_LOG_SERVER_HANDSHAKE;
	case sizeof("CLIENT_TRAFFIC_SECRET_0") - 1:
		return first == 'C' ? SECRET_LOG_CLIENT_APPLICATION : SECRET_LOG_SERVER_APPLICATION;
	}
	return 0;
}

/* crypto/tls.(*Config).writeKeyLog(label, clientRandom, secret) of Go 1.17 and newer; called without a key log, too. */
static __always_inline bool on_go_key_log(struct pt_regs *ctx, struct found *found, bool may_sleep)
{
	char first;

	if (read_user(&first, sizeof(first), GO_WORD_1(ctx), may_sleep))
		return false;
	found->label = log_label(first, GO_WORD_2(ctx));
	found->context.data = GO_WORD_3(ctx);
	found->context.size = GO_WORD_4(ctx);
	found->secret.data = GO_WORD_6(ctx);
	found->secret.size = GO_WORD_7(ctx);
	return found->label && found->context.size == RANDOM_LEN;
}

/*
 * nss_keylog_int(label, ssl, random, its size, secret, its size) of OpenSSL 3, where ssl_log_secret() comes to it; with
 * or without a key log.
 */
static __always_inline bool on_openssl_key_log(struct pt_regs *ctx, struct found *found, bool may_sleep)
{
	char label[32] = {};
	__u64 text = PT_REGS_PARM1(ctx);
	long length = bpf_probe_read_user_str(label, sizeof(label), (const void *)text);

	/* The helper reads up to a page that is not there: then it is fetched, and a text that ends before it is not.
	 */
	if (length < 0 && may_sleep && !bpf_copy_from_user(label, 1, (const void *)text))
		length = bpf_probe_read_user_str(label, sizeof(label), (const void *)text);
	if (length <= 1 || length > sizeof(label))
		return false;
	/* Secrets after an update of keys are "..._SECRET_N": they follow from the first ones, and open nothing before.
	 */
	if (length == sizeof("CLIENT_TRAFFIC_SECRET_0") && label[sizeof("CLIENT_TRAFFIC_SECRET_0") - 2] != '0')
		return false;
	found->label = log_label(label[0], length - 1);
	found->context.data = PT_REGS_PARM3(ctx);
	found->context.size = (__u32)PT_REGS_PARM4(ctx);
	found->secret.data = PT_REGS_PARM5(ctx);
	found->secret.size = PT_REGS_PARM6(ctx);
	return found->label && found->context.size == RANDOM_LEN;
}

/* Each in two forms: where programs at user functions may sleep (Linux 6.0), the second one is loaded. */
#define SECRET_PROGRAMS(name, library)                                                                           \
	static __always_inline int run_##name(struct pt_regs *ctx, bool may_sleep)                               \
	{                                                                                                        \
		struct found found = {};                                                                         \
                                                                                                                 \
		if (!settings.empty && !is_process_left_out(current_pid()) && on_##name(ctx, &found, may_sleep)) \
			send_secret(&found, library, may_sleep);                                                 \
		return 0;                                                                                        \
	}                                                                                                        \
	SEC("uprobe")                                                                                            \
	int name(struct pt_regs *ctx)                                                                            \
	{                                                                                                        \
		return run_##name(ctx, false);                                                                   \
	}                                                                                                        \
	SEC("uprobe.s")                                                                                          \
	int name##_sleeping(struct pt_regs *ctx)                                                                 \
	{                                                                                                        \
		return run_##name(ctx, true);                                                                    \
	}

SECRET_PROGRAMS(openssl_derive, LIBRARY_OPENSSL)
SECRET_PROGRAMS(openssl_key_log, LIBRARY_OPENSSL)
SECRET_PROGRAMS(openssl_ctrl, LIBRARY_OPENSSL_1_1)
SECRET_PROGRAMS(nettle_extract, LIBRARY_GNUTLS)
SECRET_PROGRAMS(nettle_expand, LIBRARY_GNUTLS)
SECRET_PROGRAMS(gnutls_prf, LIBRARY_GNUTLS)
SECRET_PROGRAMS(boringssl_expand, LIBRARY_BORINGSSL)
SECRET_PROGRAMS(boringssl_prf, LIBRARY_BORINGSSL)
SECRET_PROGRAMS(go_key_log, LIBRARY_GO)
