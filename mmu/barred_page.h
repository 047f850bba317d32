// How a guest under KVM finds a page that is lost: the page is put out of reach, so that KVM_RUN fails on it.
//
// KVM does not say which page that was (EFAULT without an address). So one page at a time is barred, and nothing else
// of a window is out of reach for long but what is being replaced (KvmWindow::AwaitRemapping): a vCPU whose KVM_RUN
// fails and that finds nothing replaced has run into this page. The bar is lifted when a vCPU takes it, and the next
// touch of the page is a fault that userfaultfd reports, like any other:
//
//   fault thread                          vCPU 0                      vCPU 1
//                                         touches page 17: waits
//   the page is lost: bar it; wake
//                                         KVM_RUN: EFAULT             touches page 17: KVM_RUN: EFAULT
//                                         takes 17; lifts the bar
//                                         machine check               nothing is barred: tries again, waits
//   the page is lost: bar it; wake ...
//
// It does not matter which of several vCPUs takes the page: each that has not, and needs it, asks for it anew.
#ifndef QUIRE_MMU_BARRED_PAGE_H_
#define QUIRE_MMU_BARRED_PAGE_H_

#include <optional>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/units.h"

namespace quire {

// The one page of a window that may be barred. Not thread safe: the window's lock guards it.
class BarredPage {
 public:
  // How long a page stays barred that nobody takes, when another one is to be. Whoever was to take it may have been
  // interrupted, and never come back to it; else it runs into the page as soon as the host lets it run.
  static constexpr absl::Duration kPatience = absl::Milliseconds(100);

  // `window` is where page 0 is mapped, readable and writable.
  explicit BarredPage(Hva window) : window_(window) {}
  BarredPage(const BarredPage&) = delete;
  BarredPage& operator=(const BarredPage&) = delete;

  // False: another page is, and not for long enough yet; or the process has no mapping left.
  bool Bar(Gfn gfn, MonotonicTime now);
  // The page that was barred until now.
  std::optional<Gfn> Lift();
  // None is barred any more, if it is in this range.
  void LiftIn(GfnRange range);

 private:
  bool Protect(Gfn gfn, int protection) const;

  const Hva window_;
  std::optional<Gfn> page_;
  MonotonicTime since_;
};

}  // namespace quire

#endif  // QUIRE_MMU_BARRED_PAGE_H_
