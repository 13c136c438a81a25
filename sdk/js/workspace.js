// Folders of the hub for environments inside it. For providers; needs the grant `workspace`.

import * as folders from "waypost:workspace/folders@0.1.0";

import { asked } from "./error.js";

export function create(environment) {
  return asked(() => folders.create(environment));
}

export function exists(folder) {
  return asked(() => folders.exists(folder));
}

export function remove(folder) {
  asked(() => folders.remove(folder));
}
