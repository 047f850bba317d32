// Private memory of a Linux program, of which every page's content is known. Needs no C++ library.
#ifndef QUIRE_WORKLOADS_LINUX_KNOWN_MEMORY_H_
#define QUIRE_WORKLOADS_LINUX_KNOWN_MEMORY_H_

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "workloads/content.h"
#include "workloads/linux/say.h"

namespace quire {

// How many pages were compared with what they should hold, and how many were not so.
struct Tally {
  uint64_t checked = 0;
  uint64_t wrong = 0;
};

// The pages' versions are kept beside them, in memory that what disturbs the pages may disturb too: that makes pages
// wrong as well. A system call that fails ends the program. Not thread safe.
class KnownMemory {
 public:
  static constexpr uint64_t kPageBytes = kWordsPerPage * sizeof(uint64_t);
  // Wrong pages that are described on standard error; all are counted.
  static constexpr uint64_t kMostDescribed = 10;

  // Each page is zeros at first. `seed` is the key of its content (content.h); `pages` is not 0.
  KnownMemory(uint64_t seed, uint64_t pages) : pages_(pages), words_(Map(pages * kPageBytes, nullptr)) {
    content_.key = seed;
    versions_ = reinterpret_cast<uint32_t*>(Map(pages * sizeof(uint32_t), nullptr));
  }
  KnownMemory(const KnownMemory&) = delete;
  KnownMemory& operator=(const KnownMemory&) = delete;
  ~KnownMemory() {
    munmap(words_, pages_ * kPageBytes);
    munmap(versions_, pages_ * sizeof(uint32_t));
  }

  uint64_t pages() const { return pages_; }
  const Tally& tally() const { return tally_; }
  uint64_t* WordsOf(uint64_t page) { return words_ + page * kWordsPerPage; }

  // Gives the page new content.
  void Write(uint64_t page) { GeneratePage(WordsOf(page), content_, page, ++versions_[page]); }

  void WriteAll() {
    for (uint64_t page = 0; page < pages_; ++page) Write(page);
  }

  void Check(uint64_t page) { CheckVersion(page, versions_[page]); }

  void CheckAll() {
    for (uint64_t page = 0; page < pages_; ++page) Check(page);
  }

  // Lets the kernel free pages when it likes (MADV_FREE), looks at them, and writes them anew.
  void OfferAndRewrite(uint64_t first, uint64_t count) {
    if (madvise(WordsOf(first), count * kPageBytes, MADV_FREE) != 0) Fail("MADV_FREE is refused");
    for (uint64_t page = first; page < first + count; ++page) CheckOffered(page);
    for (uint64_t page = first; page < first + count; ++page) Write(page);
  }

  // Gives pages back to the kernel, takes new ones, which must be zeros, and writes them.
  void ReplaceAndRewrite(uint64_t first, uint64_t count) {
    if (munmap(WordsOf(first), count * kPageBytes) != 0) Fail("munmap failed");
    Map(count * kPageBytes, WordsOf(first));
    for (uint64_t page = first; page < first + count; ++page) CheckVersion(page, 0);
    for (uint64_t page = first; page < first + count; ++page) Write(page);
  }

  // No huge pages, before anything is written.
  void UseSmallPages() {
    // A kernel that has no huge pages refuses.
    if (madvise(words_, pages_ * kPageBytes, MADV_NOHUGEPAGE) != 0 && errno != EINVAL) Fail("MADV_NOHUGEPAGE failed");
  }

  // Gives pages back to the kernel: until they are written, CheckZeros is what they are to be checked with.
  void GiveBack(uint64_t first, uint64_t count) {
    if (count == 0) return;
    if (madvise(WordsOf(first), count * kPageBytes, MADV_DONTNEED) != 0) Fail("MADV_DONTNEED failed");
  }
  void CheckZeros(uint64_t page) { CheckVersion(page, 0); }

  // Checks a page that the kernel may free: it is as it was, or zeros, or, if it is freed while it is read, as it was
  // up to a word and zeros from there on.
  void CheckOffered(uint64_t page) {
    ++tally_.checked;
    alignas(16) uint64_t wanted[kWordsPerPage];
    uint64_t read[kWordsPerPage];
    memcpy(read, WordsOf(page), sizeof read);
    GeneratePage(wanted, content_, page, versions_[page]);
    uint32_t same = 0;
    while (same < kWordsPerPage && read[same] == wanted[same]) ++same;
    uint32_t end = same;
    while (end < kWordsPerPage && read[end] == 0) ++end;
    if (end < kWordsPerPage) NoteWrong(page, {false, end, read[end], wanted[end]});
  }

 private:
  static uint64_t* Map(uint64_t bytes, void* at) {
    const int fixed = at == nullptr ? 0 : MAP_FIXED;
    void* mapped = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
    if (mapped == MAP_FAILED) Fail("memory could not be mapped");
    return static_cast<uint64_t*>(mapped);
  }

  void CheckVersion(uint64_t page, uint32_t version) {
    ++tally_.checked;
    const PageCheck check = CheckPage(WordsOf(page), content_, page, version);
    if (!check.good) NoteWrong(page, check);
  }

  void NoteWrong(uint64_t page, const PageCheck& check) {
    if (++tally_.wrong > kMostDescribed) return;
    Say("wrong_page=%llu word=%u value=%016llx wanted=%016llx version=%u", static_cast<unsigned long long>(page),
        check.word, static_cast<unsigned long long>(check.value), static_cast<unsigned long long>(check.wanted),
        versions_[page]);
  }

  Content content_;
  uint64_t pages_;
  uint64_t* words_;
  uint32_t* versions_;
  Tally tally_;
};

}  // namespace quire

#endif  // QUIRE_WORKLOADS_LINUX_KNOWN_MEMORY_H_
