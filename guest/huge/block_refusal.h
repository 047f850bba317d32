// Why a block that might have been brought in whole was not.
#ifndef QUIRE_GUEST_HUGE_BLOCK_REFUSAL_H_
#define QUIRE_GUEST_HUGE_BLOCK_REFUSAL_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "base/counters.h"

namespace quire {

enum class BlockRefusal : uint8_t {
  kNotAsked,   // at its first touch: the options want none, or none where the guest has not asked for them
  kPartial,    // the guest's memory ends within it
  kPoisoned,   // a page of it is lost
  kShared,     // pages of it share frames with others
  kInherited,  // pages of it are its template's
  kWired,      // a page of it is wired, and would have to move
  kInTransit,  // pages of it were being stored
  kLately,     // it had come in whole lately, and memory is short
  kLimit,      // its guest is at its own limit
  kMemory,     // memory is short
  kScattered,  // free memory is scattered
  kUnread,     // a page of it could not be read back, or not in time
  kHost,       // the host has no 2 MiB page to give
};
inline constexpr size_t kBlockRefusals = 13;

// As the report names it.
constexpr absl::string_view Name(BlockRefusal refusal) {
  constexpr std::array<absl::string_view, kBlockRefusals> kNames = {
      "whole blocks are off, or were not asked for",
      "the guest's memory ends within it",
      "a page of it is lost",
      "pages of it share frames",
      "pages of it are its template's",
      "a page of it is wired",
      "pages of it were being stored",
      "it had come in whole lately, and memory is short",
      "its guest is at its limit",
      "memory is short",
      "free memory is scattered",
      "a page of it could not be read back",
      "the host had no 2 MiB page",
  };
  return kNames[static_cast<size_t>(refusal)];
}

// How often for each reason. Thread safe.
class BlockRefusals {
 public:
  void Add(BlockRefusal why) { counters_[static_cast<size_t>(why)].Add(); }
  uint64_t value(BlockRefusal why) const { return counters_[static_cast<size_t>(why)].value(); }

 private:
  std::array<Counter, kBlockRefusals> counters_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_HUGE_BLOCK_REFUSAL_H_
