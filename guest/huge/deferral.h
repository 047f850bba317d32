// When to try again what has failed for lack of what only others can change: ever more rarely.
#ifndef QUIRE_GUEST_HUGE_DEFERRAL_H_
#define QUIRE_GUEST_HUGE_DEFERRAL_H_

#include <cstdint>

namespace quire {

// After each failure in a row twice as many occasions are let pass as after the one before, up to 64; a success ends
// that. Occasions are counted, not time: whoever asks more often needs it more. After Linux's defer_compaction() and
// compaction_deferred() (mm/compaction.c). Not thread safe.
class Deferral {
 public:
  static constexpr int kMaxShift = 6;

  // Another occasion: whether to let it pass.
  bool ShouldDefer() {
    if (shift_ == 0) return false;
    if (++considered_ < uint32_t{1} << shift_) return true;
    considered_ = 0;
    return false;
  }
  void Failed() {
    considered_ = 0;
    if (shift_ < kMaxShift) ++shift_;
  }
  void Succeeded() { shift_ = 0; }

 private:
  uint32_t considered_ = 0;  // occasions since the last failure
  int shift_ = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_HUGE_DEFERRAL_H_
