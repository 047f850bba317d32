#include "vmm/control/testing/api_description.h"

#include <stdio.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace quire {
namespace {

using Json = nlohmann::json;

bool IsOfType(const Json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "integer") return value.is_number_integer();
  return type == "number" && value.is_number();
}

}  // namespace

std::optional<ApiDescription> ApiDescription::Load(const std::string& path) {
  if (access("/usr/lib/python3/dist-packages/yaml/__init__.py", R_OK) != 0) return std::nullopt;
  const std::string command =
      absl::StrCat("/usr/bin/python3 -c 'import json, yaml; print(json.dumps(yaml.safe_load(open(\"", path, "\"))))'");
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return std::nullopt;
  std::string text;
  char bytes[4096];
  for (size_t count; (count = fread(bytes, 1, sizeof bytes, pipe)) > 0;) text.append(bytes, count);
  pclose(pipe);
  return ApiDescription(Json::parse(text, nullptr, /*allow_exceptions=*/false));
}

std::vector<std::pair<std::string, std::string>> ApiDescription::Operations() const {
  std::vector<std::pair<std::string, std::string>> operations;
  for (const auto& [path, methods] : root_["paths"].items()) {
    for (const auto& [method, operation] : methods.items()) {
      if (method != "parameters") operations.emplace_back(absl::AsciiStrToUpper(method), path);
    }
  }
  return operations;
}

const Json& ApiDescription::Resolve(const Json& schema) const {
  if (schema.contains("allOf")) return Resolve(schema["allOf"][0]);
  if (!schema.contains("$ref")) return schema;
  const std::string ref = schema["$ref"];
  return Resolve(root_.at(Json::json_pointer(std::string(absl::StripPrefix(ref, "#")))));
}

std::string ApiDescription::Complaints(const Json& value, const std::string& schema) const {
  std::string complaints;
  Check(value, root_["components"]["schemas"].at(schema), schema, complaints);
  return complaints;
}

std::vector<std::string> ApiDescription::Missing(const Json& object, const std::string& schema) const {
  std::vector<std::string> missing;
  for (const auto& [key, of_key] : root_["components"]["schemas"].at(schema)["properties"].items()) {
    if (!object.contains(key)) missing.push_back(key);
  }
  return missing;
}

void ApiDescription::Check(const Json& value, const Json& described, const std::string& where,
                           std::string& complaints) const {
  const Json& schema = Resolve(described);
  if (schema.contains("oneOf")) return;
  if (!IsOfType(value, schema.value("type", ""))) {
    absl::StrAppend(&complaints, where, " is ", value.dump(), ", no ", schema.value("type", ""), "\n");
    return;
  }
  if (schema.contains("enum") &&
      std::find(schema["enum"].begin(), schema["enum"].end(), value) == schema["enum"].end()) {
    absl::StrAppend(&complaints, where, " is ", value.dump(), ", which is not one of its values\n");
  }
  if (value.is_array()) {
    for (const Json& item : value) Check(item, schema["items"], where + "[]", complaints);
  }
  if (!value.is_object()) return;
  for (const Json& key : schema.value("required", Json::array())) {
    if (!value.contains(key.get<std::string>())) absl::StrAppend(&complaints, where, " has no ", key.dump(), "\n");
  }
  const Json properties = schema.value("properties", Json::object());
  for (const auto& [key, of_key] : value.items()) {
    const std::string here = absl::StrCat(where, ".", key);
    if (properties.contains(key)) {
      Check(of_key, properties[key], here, complaints);
    } else if (schema.contains("additionalProperties")) {
      Check(of_key, schema["additionalProperties"], here, complaints);
    } else {
      absl::StrAppend(&complaints, here, " is not described\n");
    }
  }
}

}  // namespace quire
