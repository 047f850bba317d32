/* The contract between Quire and a program that runs as a guest under KVM. Plain C, freestanding.
 * docs/guest_abi.md explains it with an example.
 *
 * A guest program is a statically linked ELF64 executable (not position independent) whose segments lie between
 * QUIRE_IMAGE_BEGIN and QUIRE_IMAGE_END. Every vCPU starts at its entry point, in 64-bit mode at privilege level 3
 * with IOPL 3 (IN and OUT are allowed, interrupts never arrive, SSE2 is enabled), with
 *   rdi  the address of struct quire_boot_info (the same for all vCPUs)
 *   rsi  the number of this vCPU, from 0
 *   rsp  the top of this vCPU's own stack (QUIRE_STACK_SIZE bytes), aligned as if the entry point had been called
 * Image, stacks, boot info and page tables lie in wired memory beside the guest's memory proper, which is mapped
 * readable and writable at boot_info->memory and holds zeros at first.
 */
#ifndef QUIRE_WORKLOADS_GUEST_ABI_H_
#define QUIRE_WORKLOADS_GUEST_ABI_H_

#include <stdint.h>

#define QUIRE_ABI_MAGIC 0x6572697571ull /* "quire" */
#define QUIRE_ABI_VERSION 1u
#define QUIRE_MAX_VCPUS 64u
#define QUIRE_STACK_SIZE 0x10000u

/* Virtual addresses. */
#define QUIRE_BOOT_INFO 0x100000ull   /* struct quire_boot_info */
#define QUIRE_IMAGE_BEGIN 0x400000ull /* where the program's segments may lie ... */
#define QUIRE_IMAGE_END 0x10000000ull /* ... up to here */
#define QUIRE_MEMORY 0x1000000000ull  /* the guest's memory, boot_info->memory_bytes of it */
#define QUIRE_AUX 0x100000000000ull   /* boot_info->aux: read-only data and scratch given by Quire's own workloads */

/* I/O ports. An OUT to any other does nothing, an IN gives all ones. Port 0xf5 is Quire's own: its handlers report by
 * it that an exception has ended the guest. */
#define QUIRE_SERIAL_PORT 0x3f8 /* OUT, one byte: console output */
#define QUIRE_EXIT_PORT 0xf4    /* OUT, 32 bits: this vCPU ends with this status; 0 is success */
#define QUIRE_ADVISE_PORT 0xf6  /* OUT, 32 bits: advice on the part of the memory that boot_info->huge_* say */
#define QUIRE_FREEZE_PORT                                                                    \
  0xf8 /* OUT, 32 bits, any value: with --clones, this vCPU stops here; see boot_info->clone \
        */

#define QUIRE_REST_PORT 0xf9 /* OUT, 32 bits, any value: rest for as long as boot_info->idle_percent asks for */
#define QUIRE_WIRE_PORT 0xf7 /* OUT, 32 bits: a request about the part of the memory that boot_info->wire_* say */

/* What may be written to QUIRE_ADVISE_PORT; anything else ends the guest. */
#define QUIRE_ADVISE_HUGE 1u    /* let this part come and go by whole blocks of 2 MiB (--huge=advise) */
#define QUIRE_ADVISE_NO_HUGE 2u /* no longer */

/* What may be written to QUIRE_WIRE_PORT; anything else ends the guest. */
#define QUIRE_WIRE 1u   /* keep this part in memory, where it is */
#define QUIRE_UNWIRE 2u /* no longer: exactly one of the parts that are wired */

/* What Quire answers in boot_info->wire_answer before the guest goes on. */
#define QUIRE_WIRE_DONE 0u
#define QUIRE_WIRE_REFUSED 1u /* nothing has changed: that much may not be wired, or it is not wired */

/* One for each vCPU, on a cache line of its own. Written by the guest, read by Quire at any time. Each field only grows
 * except first_bad_*, which are set once, before mismatched_pages stops being 0. */
struct quire_progress {
  uint64_t operations;       /* accesses to one page each, in phase 1 */
  uint64_t verified_pages;   /* checks made */
  uint64_t mismatched_pages; /* checks failed */
  uint64_t first_bad_page;   /* page number and ... */
  uint64_t first_bad_word;   /* ... offset in 8-byte words of the first failed check, ... */
  uint64_t first_bad_value;  /* ... what was read there ... */
  uint64_t first_bad_wanted; /* ... and what should have been */
  uint64_t phase;            /* 0 filling, 1 running, 2 finished: when throughput may be measured */
};

struct quire_boot_info {
  uint64_t magic;        /* QUIRE_ABI_MAGIC */
  uint32_t version;      /* QUIRE_ABI_VERSION */
  uint32_t vcpus;        /* number of vCPUs started */
  uint64_t memory;       /* address of the guest's memory */
  uint64_t memory_bytes; /* its size, a multiple of 4096 */
  uint64_t seed;         /* --seed, mixed with the guest's number */
  uint32_t stop;         /* Quire sets this to 1 when the run's time is over: finish and exit with 0 */
  uint32_t arrived;      /* for the guest's own use: vCPUs that have reached a barrier; starts as 0 */
  uint64_t aux;          /* 0, or the address of data for Quire's own workloads ... */
  uint64_t aux_bytes;    /* ... and its size */
  uint64_t huge_begin;   /* for QUIRE_ADVISE_PORT, written by the guest: offset into its memory ... */
  uint64_t huge_bytes;   /* ... and size of the part that the advice is about */
  uint64_t wire_begin;   /* for QUIRE_WIRE_PORT, written by the guest: offset into its memory ... */
  uint64_t wire_bytes;   /* ... and size of the part that is to be wired */
  uint64_t wire_answer;  /* to the latest request, written by Quire */
  uint64_t clone; /* 0; or, behind the OUT to QUIRE_FREEZE_PORT with which all vCPUs of a guest stopped, the number
                     of this clone of it, from 1. All else is as it was then: memory, registers, boot info */
  uint32_t idle_percent; /* the share of its time that the guest is asked to rest, 0 to 100. Quire changes it at any
                            time; a guest that heeds it writes to QUIRE_REST_PORT now and then */
  uint32_t reserved32;   /* 0 */
  uint64_t reserved;     /* 0 */
  struct quire_progress progress[QUIRE_MAX_VCPUS];
};

#ifdef __cplusplus
static_assert(sizeof(struct quire_progress) == 64, "one cache line");
static_assert(sizeof(struct quire_boot_info) == 128 + 64 * QUIRE_MAX_VCPUS, "two cache lines, then one a vCPU");
#endif

#endif /* QUIRE_WORKLOADS_GUEST_ABI_H_ */
