// The result of a run: what `quire run --json` writes. Members are named as the keys. People's scripts depend on the
// keys: add freely, never rename or drop one. Counts are since the start of the run; members marked "gauge" are
// sampled when the workload ends, before teardown. What is switched off stays zero.
#ifndef QUIRE_VMM_REPORT_H_
#define QUIRE_VMM_REPORT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/units.h"
#include "vmm/exit_status.h"
#include "vmm/options.h"
#include "vmm/version.h"

namespace quire {

// What is known of a PC guest, which runs no workload.
struct PcReport {
  std::string ended = {};                           // power off, reset, exit, time: it was switched off; or not yet
  std::optional<uint32_t> exit_status = {};         // of exit
  std::map<std::string, std::string> console = {};  // what it reported there, by key
  std::vector<std::string> failed_devices = {};     // a sentence for each
  ByteCount balloon_bytes = {};                     // that the guest has given back, and not taken again
  ByteCount balloon_target_bytes = {};              // that it is to give back
  ByteCount reported_bytes = {};                    // that it said were free, over the run
  uint64_t machine_checks = 0;                      // that told it of lost pages
};

struct GuestReport {
  int id = 0;
  std::string name = {};
  ByteCount memory_bytes = {};
  int vcpus = 0;
  absl::Status exit = {};   // OK, or a sentence; ResourceExhausted if the guest was stopped for want of memory
  uint64_t operations = 0;  // accesses to one page each
  double operations_per_second = 0;
  uint64_t verified_pages = 0;         // checks made
  uint64_t mismatched_pages = 0;       // checks failed
  ByteCount peak_resident_bytes = {};  // memory of the pool held, second chance included
  ByteCount peak_swapped_bytes = {};   // as it was before compression
  ByteCount pool_limit_bytes = {};     // 0: no limit of its own
  ByteCount swap_limit_bytes = {};
  std::string state = "filling";  // or running, finished (also when its time was over), stopped: before its time
  // Gauges: of its memory, as it sees it. The rest was never touched.
  ByteCount resident_bytes = {};
  ByteCount out_bytes = {};         // second chance
  ByteCount shared_bytes = {};      // in frames that others have too
  ByteCount compressed_bytes = {};  // as they were before compression, wherever they lie
  ByteCount inherited_bytes = {};   // read from the template that it was cloned from
  ByteCount wired_bytes = {};       // of those resident
  uint64_t faults = 0;
  uint64_t reclaimed_pages = 0;  // taken out and stored, each time that they were
  std::optional<PcReport> pc = {};
};

struct PoolReport {
  ByteCount limit_bytes = {};
  ByteCount peak_bytes = {};        // everything charged: the pool file's populated pages
  ByteCount resident_bytes = {};    // gauge
  ByteCount out_bytes = {};         // gauge: second chance
  ByteCount shared_bytes = {};      // gauge
  ByteCount compressed_bytes = {};  // gauge
  ByteCount wired_bytes = {};       // gauge: Quire's own, and pages that guests have wired
  ByteCount poisoned_bytes = {};    // gauge: of failed memory, which is never used again
  ByteCount free_bytes = {};        // gauge
  ByteCount metadata_bytes = {};    // gauge: bookkeeping, software EPTs included; outside the limit
  uint64_t wirings_refused = 0;     // requests of guests that would have gone beyond a limit
};

struct FaultsReport {
  uint64_t total = 0;
  uint64_t zero_fill = 0;
  uint64_t second_chance = 0;
  uint64_t swap_in = 0;
  uint64_t unshare = 0;
  uint64_t inherited = 0;  // pages of a template that were shown to a clone
  uint64_t huge = 0;
  uint64_t slow = 0;              // handed to the thread that may wait (windows only)
  uint64_t direct_reclaims = 0;   // that had to make room themselves
  uint64_t limit_reclaims = 0;    // that had to make room within their own guest's limit
  uint64_t already_resident = 0;  // another vCPU was faster, or the MMU had dropped the page by itself
  double p50_us = 0;              // from the event read to the wake-up
  double p99_us = 0;
};

struct SwapTierReport {
  std::string name = {};  // "ram", "file" or "nbd"
  uint64_t pages = 0;     // gauge
  ByteCount bytes = {};   // gauge
  uint64_t errors = 0;
  // Of that in the pool, since the beginning:
  uint64_t recompressed = 0;  // pages, with zstd
  ByteCount recompression_saved_bytes = {};
  // Of those outside the pool:
  std::string store = {};        // for people
  ByteCount limit_bytes = {};    // what there is room for
  ByteCount written_bytes = {};  // padding and cleaning included
  ByteCount read_bytes = {};
};

struct SwapReport {
  uint64_t pages_out = 0;
  uint64_t pages_in = 0;
  uint64_t unchanged_pages = 0;     // of those out: their copies from the time before were still there
  uint64_t kept_pages = 0;          // gauge: such copies
  uint64_t stored_pages = 0;        // gauge
  ByteCount stored_bytes = {};      // gauge
  uint64_t same_filled_pages = 0;   // gauge
  uint64_t deduplicated_pages = 0;  // of those out: an equal page was stored already
  uint64_t refused_limit = 0;       // times that a page stayed because its guest had as many swapped as it may
  uint64_t refused_wired = 0;       // times that a page stayed because it is wired
  std::vector<SwapTierReport> tiers = {};
};

// A kind of small objects in the pool. The section `zones` has the version of its form beside them.
struct ZoneReport {
  std::string name = {};
  ByteCount size = {};    // of an object
  uint64_t limit = 0;     // objects; 0: none
  uint64_t used = 0;      // gauge: objects
  uint64_t free = 0;      // gauge: objects that there are frames for
  uint64_t requests = 0;  // to allocate one
  uint64_t failures = 0;  // of them
  uint64_t frames = 0;    // gauge
};
inline constexpr int kZonesVersion = 1;

struct MergeReport {
  uint64_t scanned_pages = 0;
  uint64_t skipped_pages = 0;  // not looked at in a pass, because they did not merge before
  uint64_t passes = 0;         // through all guests' memory
  uint64_t merged_pages = 0;
  uint64_t zero_pages = 0;
  uint64_t shared_frames = 0;  // gauge
  ByteCount saved_bytes = {};  // gauge
  uint64_t broken_pages = 0;
  std::map<std::string, uint64_t> refused = {};  // how often, for each reason
};

struct HugeReport {
  uint64_t blocks_mapped = 0;  // gauge: 2 MiB entries in KVM's statistics, or in the EPT
  uint64_t whole_faults = 0;
  uint64_t promotions = 0;
  uint64_t prefetched_blocks = 0;  // brought in ahead of a stream
  uint64_t splits = 0;
  uint64_t compactions = 0;     // blocks and contiguous ranges that were made free by moving pages
  uint64_t migrated_pages = 0;  // for them
  int unusable_free_index = 0;  // gauge: thousandths of the arena's free frames that lie in no whole free block
  int fragmentation_index = 0;  // gauge: towards 1000 if a block is refused for fragmentation, towards 0 if for lack of
                                // memory; -1000 if it is not refused
  std::map<std::string, uint64_t> refused = {};
};

struct NotifierReport {
  uint64_t invalidations = 0;
  uint64_t pages = 0;
  uint64_t retries = 0;
  // Of windows, in pages:
  uint64_t islands_made = 0;    // mapped, from a frame that is not the guest's own
  uint64_t islands_unmade = 0;  // written to, or invalidated for another reason
  uint64_t views_left = 0;      // blocks of clones that got frames of their own
  uint64_t homes_refused = 0;   // times that the process had no mapping left to unmake some, and tried again later
};

// Of guests that were cloned from a frozen one; all zero without.
struct ClonesReport {
  int count = 0;
  double freeze_seconds = 0;  // from the end of the guest's last vCPU
  double freeze_gib_per_second = 0;
  double clone_seconds_median = 0;  // for one to be made, ready to be started
  double clone_seconds_max = 0;
  ByteCount pool_bytes_each = {};      // of the pool, when it was made
  ByteCount metadata_bytes_each = {};  // and beside it
};

// What may be changed while the run goes on, as it was last.
struct PoliciesReport {
  Merge merge = Merge::kOn;
  Huge huge = Huge::kAlways;
};

// By kind of thread.
struct CpuSecondsReport {
  double vcpus = 0;
  double fault = 0;
  double reclaim = 0;
  double swap = 0;
  double merge = 0;
};

// A distribution of times: those below bounds_us[i], and not below the one before, are counts[i].
struct LatencyReport {
  double p50_us = 0;
  double p99_us = 0;
  std::vector<double> bounds_us = {};
  std::vector<uint64_t> counts = {};
};

// A part of a run that has a schedule; its times since the start of the run.
struct PhaseReport {
  std::string name = {};
  double begin_seconds = 0;
  double end_seconds = 0;
  bool measured = false;
  uint64_t operations = 0;
  uint64_t faults = 0;
  double cpu_seconds = 0;
  uint64_t guests = 0;  // the most that ran at the same time, having filled their memory
};

struct Report {
  std::string version = kVersion;
  Engine engine = Engine::kQuire;
  Accel accel = Accel::kSoft;
  bool huge_pages = false;   // key "pages": whether windows (or the EPT) can hold 2 MiB pages on this host
  double content_ratio = 0;  // LZ4 ratio of the content, by 4 KiB page
  double elapsed_seconds = 0;
  std::vector<GuestReport> guests = {};
  PoolReport pool = {};
  FaultsReport faults = {};
  SwapReport swap = {};
  std::vector<ZoneReport> zones = {};
  MergeReport merge = {};
  HugeReport huge = {};
  NotifierReport notifier = {};
  ClonesReport clones = {};
  PoliciesReport policies = {};
  CpuSecondsReport cpu_seconds = {};
  LatencyReport fault_latency = {};  // as FaultsReport's percentiles
  // Of a run that has a schedule:
  std::vector<PhaseReport> phases = {};
  LatencyReport latency = {};  // of operations in measured phases, as guests see them
};

// The report as one JSON object, indented, with a line break at the end. Sizes are bytes, times seconds unless the key
// says otherwise. Bytes that are not UTF-8 are replaced.
std::string ToJson(const Report& report);

// Its parts: one of the guests, all of them as {"guests": [...]}, and the policies; in a line each.
std::string ToJson(const GuestReport& guest);
std::string ToJson(const std::vector<GuestReport>& guests);
std::string ToJson(const PoliciesReport& policies);

// What the program ends with: a guest that died or read a wrong byte counts for more than one stopped for want of
// memory.
ExitStatus ToExitStatus(const Report& report);

}  // namespace quire

#endif  // QUIRE_VMM_REPORT_H_
