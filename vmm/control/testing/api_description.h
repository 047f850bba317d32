// docs/openapi.yaml, to hold answers against.
#ifndef QUIRE_VMM_CONTROL_TESTING_API_DESCRIPTION_H_
#define QUIRE_VMM_CONTROL_TESTING_API_DESCRIPTION_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"

namespace quire {

class ApiDescription {
 public:
  // Null: there is nothing here that reads YAML (Debian's python3-yaml). `path` is the description's.
  static std::optional<ApiDescription> Load(const std::string& path);

  // Method and path of all that is described: {"GET", "/v1/report"}.
  std::vector<std::pair<std::string, std::string>> Operations() const;
  // What of a JSON value is not as a schema of this name has it, a line each; empty: nothing.
  std::string Complaints(const nlohmann::json& value, const std::string& schema) const;
  // The properties of a schema that an object does not have.
  std::vector<std::string> Missing(const nlohmann::json& object, const std::string& schema) const;
  const nlohmann::json& root() const { return root_; }

 private:
  explicit ApiDescription(nlohmann::json root) : root_(std::move(root)) {}
  const nlohmann::json& Resolve(const nlohmann::json& schema) const;
  void Check(const nlohmann::json& value, const nlohmann::json& schema, const std::string& where,
             std::string& complaints) const;

  nlohmann::json root_;
};

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_TESTING_API_DESCRIPTION_H_
