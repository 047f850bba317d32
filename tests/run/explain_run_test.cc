// A run is asked about its pages while it goes on.
#include <unistd.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/run/controlled_run_test.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"
#include "vmm/control/socket_place.h"
#include "vmm/options.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

class ExplainRunTest : public ControlledRunTest {
 protected:
  void SetUp() override {
    options_.memory = ByteCount::MiB(16);
    options_.pool = ByteCount::MiB(64);
    options_.huge = Huge::kNever;
    options_.workload = "random:common=1,written=0";
  }
  nlohmann::json Explain(const std::string& guest, uint64_t gfn) {
    const absl::StatusOr<std::string> answer = AskRun(*options_.control, {.guest = guest, .gfn = gfn});
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? nlohmann::json::parse(*answer) : nlohmann::json();
  }
};

TEST_F(ExplainRunTest, APageThatBothGuestsHaveIsExplainedOnceItIsMerged) {
  StartRun();
  // All pages but the zero ones come to be shared.
  nlohmann::json page;
  for (uint64_t gfn = 0; page["state"] != "shared"; gfn = (gfn + 1) % 4096) page = Explain("guest-1", gfn);
  EXPECT_EQ(page["guest"], "guest-1");
  EXPECT_EQ(page["id"], 1);
  EXPECT_GE(page["sharers"], 1u);
  EXPECT_EQ(page["merge_refused"], "");
  EXPECT_EQ(page["huge_refused"], "whole blocks are off, or were not asked for");
  EXPECT_THAT(page["sentences"][2].get<std::string>(), HasSubstr("It is merged"));
  // By its number, too.
  EXPECT_EQ(Explain("1", page["gfn"])["guest"], "guest-1");
  const auto why = [&](const std::string& guest, uint64_t gfn) {
    return std::string(AskRun(*options_.control, {.guest = guest, .gfn = gfn}).status().message());
  };
  EXPECT_THAT(why("2", 0), HasSubstr("there is no guest 2: the run has guest-0 to guest-1"));
  EXPECT_THAT(why("0", 4096), HasSubstr("its memory ends at page 4096"));
  EXPECT_EQ(EndRun(), 0);
  EXPECT_NE(access(options_.control->c_str(), F_OK), 0) << "the socket is gone";
}

}  // namespace
}  // namespace quire
