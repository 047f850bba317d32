// What a page holds: a function of a content key, the page's number and its version, so that a guest can verify every
// page it reads. Freestanding: also compiled into the payload of KVM guests, hence raw integers.
//
// Version 0 is a page that was never written: zeros. From version 1 on there are three kinds of pages:
//
//   zero       one in ten pages of generated content and one in three of content from a file, chosen by key and page
//              number, hold zeros at every version. A lost or stale write to one of them cannot be seen; a wrong page
//              in its place can.
//   generated  64 records of 64 bytes, like an array of structures: the first words of a record are fresh, the others
//              repeat the record before.
//
//                 word  0   1   2   3   4   5   6   7
//     record 0          a0  b0  c0  d0  e0  f0  g0  h0     all fresh
//     record 1          a1  b1  c0  d0  e0  f0  g0  h0     one fresh pair of words: 16 new bytes for LZ4, and a match
//     record 2          a2  b2  c0  d0  e0  f0  g0  h0
//     record 3          a3  b3  c1  d1  e0  f0  g0  h0     two fresh pairs
//
//              `fresh_pairs` of the page's 256 pairs are fresh, spread evenly, which sets how far it compresses.
//              Each of the eight columns is a sequence of its own of Marsaglia's xorshift64 ("Xorshift RNGs", 2003,
//              shifts 13, 7, 17), a bijection without zero. Columns start from a bijection of (page, version). So under
//              one key *every word* differs from the word at the same place in every other page or version and from
//              zero: stale, foreign, torn and zeroed pages are found for certain, not just very probably.
//   from file  a page of a file chosen by key, page number and version, its first 16 bytes replaced by a stamp of these
//              three. Two versions made from equal file pages differ in the stamp only.
#ifndef QUIRE_WORKLOADS_CONTENT_H_
#define QUIRE_WORKLOADS_CONTENT_H_

#include <stdint.h>

#include "workloads/random.h"

namespace quire {

inline constexpr uint32_t kWordsPerPage = 512;
inline constexpr uint32_t kRecordsPerPage = 64;
inline constexpr uint32_t kPairsPerRecord = 4;
inline constexpr uint32_t kPairsPerPage = kRecordsPerPage * kPairsPerRecord;
inline constexpr uint32_t kMostFreshPairs = kPairsPerPage;  // nothing repeats: incompressible
// One page in so many is zero. Program files compress worse than the memory of a running system, which has page tables,
// stacks and cleared memory beside the code: the zero third stands for those.
inline constexpr uint64_t kPagesPerZeroPage = 10;
inline constexpr uint64_t kPagesPerZeroPageWithFile = 3;

// What the pages of a guest are filled with.
struct Content {
  uint64_t key = 0;         // guests with equal keys hold equal content ...
  uint64_t common_key = 0;  // ... and this is the key of the first `common_pages` pages
  uint64_t common_pages = 0;
  uint64_t fresh_pairs = 64;  // 0 to kMostFreshPairs; FreshPairsFor() in content_ratio.h finds it for an LZ4 ratio
  // Pages of a file, as the guest addresses them. Not owned, 16-byte aligned. None: the content is generated.
  const uint64_t* file_pages = nullptr;
  uint64_t file_page_count = 0;
};

// The outcome of comparing a page with what it should hold. `word`, `value` and `wanted` tell the first difference.
struct PageCheck {
  bool good = true;
  uint32_t word = 0;
  uint64_t value = 0;
  uint64_t wanted = 0;
};

constexpr uint64_t KeyOf(const Content& content, uint64_t page) {
  return page < content.common_pages ? content.common_key : content.key;
}

namespace content_internal {

typedef uint64_t Pair __attribute__((vector_size(16), may_alias));  // an SSE2 register: two columns

constexpr uint64_t VersionSeed(const Content& content, uint64_t page, uint32_t version) {
  return Mix64(KeyOf(content, page)) ^ (page << 32 | version);  // page < 2^32: 16 TiB of memory
}

// One word of the start of a page. Zero is no state of xorshift64; the one seed that gives it shares another's word.
constexpr uint64_t StartWord(uint64_t version_seed, uint32_t column) {
  const uint64_t word = Mix64(version_seed ^ Mix64(column));
  return word != 0 ? word : 1;
}

inline Pair StartPair(uint64_t version_seed, uint32_t pair) {
  return Pair{StartWord(version_seed, 2 * pair), StartWord(version_seed, 2 * pair + 1)};
}

inline Pair NextPair(Pair x) {
  x ^= x << 13;
  x ^= x >> 7;
  return x ^ x << 17;
}

// Calls visit(record number, its four pairs) for each record of a generated page, in order. Four variables, no array:
// gcc 12 keeps an array in memory at -O2, which takes twice as long.
template <class Visit>
inline void ForEachRecord(const Content& content, uint64_t page, uint32_t version, Visit visit) {
  const uint64_t seed = VersionSeed(content, page, version);
  Pair a = StartPair(seed, 0), b = StartPair(seed, 1), c = StartPair(seed, 2), d = StartPair(seed, 3);
  visit(0, a, b, c, d);
  uint64_t due = 0;
  for (uint32_t record = 1; record < kRecordsPerPage; ++record) {
    due += content.fresh_pairs;
    const uint64_t fresh = due / kRecordsPerPage;
    due %= kRecordsPerPage;
    if (fresh > 0) a = NextPair(a);
    if (fresh > 1) b = NextPair(b);
    if (fresh > 2) c = NextPair(c);
    if (fresh > 3) d = NextPair(d);
    visit(record, a, b, c, d);
  }
}

inline bool IsZero(Pair x) { return (x[0] | x[1]) == 0; }

// By pairs and with two sums: gcc 12 makes no vectors of a plain loop at -O2.
inline bool IsZero(const Pair* pairs) {
  Pair even = {}, odd = {};
  for (uint32_t i = 0; i < kPairsPerPage; i += 2) {
    even |= pairs[i];
    odd |= pairs[i + 1];
  }
  return IsZero(even | odd);
}

inline bool IsGenerated(const Pair* pairs, const Content& content, uint64_t page, uint32_t version) {
  Pair difference = {};
  ForEachRecord(content, page, version, [&](uint32_t record, Pair a, Pair b, Pair c, Pair d) {
    const Pair* read = pairs + record * kPairsPerRecord;
    difference |= (read[0] ^ a) | (read[1] ^ b) | (read[2] ^ c) | (read[3] ^ d);
  });
  return IsZero(difference);
}

inline const Pair* FilePage(const Content& content, uint64_t page, uint32_t version) {
  const uint64_t hash = Mix64(VersionSeed(content, page, version));
  return reinterpret_cast<const Pair*>(content.file_pages) + ScaleTo(hash, content.file_page_count) * kPairsPerPage;
}

// The pair that replaces the first one of a file page.
inline Pair Stamp(const Content& content, uint64_t page, uint32_t version) {
  return StartPair(VersionSeed(content, page, version), 0);
}

inline bool IsFromFile(const Pair* pairs, const Content& content, uint64_t page, uint32_t version) {
  const Pair* file = FilePage(content, page, version);
  Pair difference = pairs[0] ^ Stamp(content, page, version);
  for (uint32_t i = 1; i < kPairsPerPage; ++i) difference |= pairs[i] ^ file[i];
  return IsZero(difference);
}

}  // namespace content_internal

// Whether the page holds zeros.
constexpr bool IsZeroPage(const Content& content, uint64_t page, uint32_t version) {
  if (version == 0) return true;
  const uint64_t pages_per_zero_page = content.file_page_count == 0 ? kPagesPerZeroPage : kPagesPerZeroPageWithFile;
  return ScaleTo(Mix64(Mix64(KeyOf(content, page)) + page), pages_per_zero_page) == 0;
}

// Writes the page's content to the kWordsPerPage words at `words`, 16-byte aligned.
inline void GeneratePage(uint64_t* words, const Content& content, uint64_t page, uint32_t version) {
  using namespace content_internal;
  Pair* out = reinterpret_cast<Pair*>(words);
  if (IsZeroPage(content, page, version)) {
    for (uint32_t i = 0; i < kPairsPerPage; ++i) out[i] = Pair{};
  } else if (content.file_page_count != 0) {
    const Pair* file = FilePage(content, page, version);
    out[0] = Stamp(content, page, version);
    for (uint32_t i = 1; i < kPairsPerPage; ++i) out[i] = file[i];
  } else {
    ForEachRecord(content, page, version, [out](uint32_t record, Pair a, Pair b, Pair c, Pair d) {
      Pair* write = out + record * kPairsPerRecord;
      write[0] = a, write[1] = b, write[2] = c, write[3] = d;
    });
  }
}

// Whether the page holds exactly its content. `words` as for GeneratePage.
inline bool IsPageRight(const uint64_t* words, const Content& content, uint64_t page, uint32_t version) {
  using namespace content_internal;
  const Pair* pairs = reinterpret_cast<const Pair*>(words);
  if (IsZeroPage(content, page, version)) return IsZero(pairs);
  if (content.file_page_count != 0) return IsFromFile(pairs, content, page, version);
  return IsGenerated(pairs, content, page, version);
}

// As IsPageRight, and tells the first wrong word.
inline PageCheck CheckPage(const uint64_t* words, const Content& content, uint64_t page, uint32_t version) {
  if (IsPageRight(words, content, page, version)) return PageCheck();
  alignas(16) uint64_t wanted[kWordsPerPage];
  GeneratePage(wanted, content, page, version);
  uint32_t i = 0;
  while (i + 1 < kWordsPerPage && words[i] == wanted[i]) ++i;
  return PageCheck{false, i, words[i], wanted[i]};
}

}  // namespace quire

#endif  // QUIRE_WORKLOADS_CONTENT_H_
