// Copies between a guest's memory and the host's, as a device makes them while the guest runs.
#ifndef QUIRE_MMU_GUEST_COPY_H_
#define QUIRE_MMU_GUEST_COPY_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"

namespace quire {
namespace internal {

// One word, of the size of Word, that is aligned in the guest's memory.
template <class Word>
void ReadWord(const std::byte* from, std::byte* to) {
  const Word word = __atomic_load_n(reinterpret_cast<const Word*>(from), __ATOMIC_ACQUIRE);
  std::memcpy(to, &word, sizeof word);
}
template <class Word>
void WriteWord(std::byte* to, const std::byte* from) {
  Word word;
  std::memcpy(&word, from, sizeof word);
  __atomic_store_n(reinterpret_cast<Word*>(to), word, __ATOMIC_RELEASE);
}

// Calls copy(offset, word) for each of the words that `size` bytes at `guest` are made of, the largest that alignment
// allows, in order; `word` is a value of the type to copy.
template <class Copy>
void ForEachWord(const std::byte* guest, size_t size, Copy copy) {
  const auto aligned = [guest](size_t at, size_t to) { return (reinterpret_cast<uintptr_t>(guest) + at) % to == 0; };
  for (size_t at = 0; at < size;) {
    const size_t rest = size - at;
    if (rest >= 8 && aligned(at, 8)) {
      for (; size - at >= 8; at += 8) copy(at, uint64_t{});
    } else if (rest >= 4 && aligned(at, 4)) {
      copy(at, uint32_t{}), at += 4;
    } else if (rest >= 2 && aligned(at, 2)) {
      copy(at, uint16_t{}), at += 2;
    } else {
      copy(at, uint8_t{}), at += 1;
    }
  }
}

}  // namespace internal

// Words of 2, 4 and 8 bytes that are aligned in the guest's memory are copied as such, by atomic accesses: each is as
// it was, or is going to be, at one time. What the guest wrote before a word that is read here is seen by what is read
// after it; what is written here before a word, by a guest that reads the word.
inline void CopyFromGuest(const std::byte* from, absl::Span<std::byte> to) {
  internal::ForEachWord(from, to.size(),
                        [&](size_t at, auto word) { internal::ReadWord<decltype(word)>(from + at, to.data() + at); });
}
inline void CopyToGuest(std::byte* to, absl::Span<const std::byte> from) {
  internal::ForEachWord(to, from.size(),
                        [&](size_t at, auto word) { internal::WriteWord<decltype(word)>(to + at, from.data() + at); });
}

}  // namespace quire

#endif  // QUIRE_MMU_GUEST_COPY_H_
