#ifndef QUIRE_TESTS_RUN_EXPECT_GOOD_RUN_H_
#define QUIRE_TESTS_RUN_EXPECT_GOOD_RUN_H_

#include "absl/base/config.h"
#include "gtest/gtest.h"
#include "tests/run/run_in_child.h"

namespace quire {

// What a run without trouble looks like: every guest ended well and read what it wrote, and memory stayed within
// bounds, by the manager's own account and by the host's.
inline void ExpectGoodRun(const RunOptions& options, const ChildRun& run) {
  ASSERT_EQ(run.status, 0) << (run.report.is_object() ? run.report["guests"].dump(1) : "it left no report");
  ASSERT_TRUE(run.report.is_object());
  for (const nlohmann::json& guest : run.report["guests"]) {
    EXPECT_EQ(guest["exit"], "ok");
    EXPECT_EQ(guest["mismatched_pages"], 0u);
    EXPECT_GT(guest["verified_pages"], 0u);
  }
  const nlohmann::json& pool = run.report["pool"];
  const uint64_t limit = options.pool.in_bytes();
  EXPECT_LE(pool["peak_bytes"], limit);
  EXPECT_GT(run.report["swap"]["pages_out"], 0u) << "there was no pressure, so this proves nothing";
#if !defined(ABSL_HAVE_ADDRESS_SANITIZER) && !defined(ABSL_HAVE_THREAD_SANITIZER)
  const uint64_t metadata = pool["metadata_bytes"];
  EXPECT_GT(run.samples, 1);
  EXPECT_LE(run.peak_pss.in_bytes(), limit + metadata + ByteCount::MiB(64).in_bytes());
  EXPECT_GT(run.peak_pss.in_bytes(), limit / 2) << "Pss does not see the pool";
#endif
}

}  // namespace quire

#endif  // QUIRE_TESTS_RUN_EXPECT_GOOD_RUN_H_
